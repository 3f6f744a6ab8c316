/** Fixtures for most test files: a controller or a lab, and a template to fork. Each is made when a test first asks for it. */
import { test as base } from 'vitest';
import { type ControllerOptions, TestController } from './controller.ts';
import { Lab } from './lab.ts';

const controllerOptions: ControllerOptions = {};

/** `test` with a controller and a lab that all tests of a file share. Both are ended after the last test of the file. */
export const test = base
  // Override this to start the controller with other arguments or another environment.
  .extend('controllerOptions', { scope: 'file' }, controllerOptions)
  // A controller that has the template `base`.
  .extend('controller', { scope: 'file' }, async ({ controllerOptions: options }, { onCleanup }) => {
    const controller = await TestController.start({ template: true, ...options });
    onCleanup(() => controller[Symbol.asyncDispose]());
    return controller;
  })
  .extend('client', { scope: 'file' }, ({ controller }) => controller.client)
  .extend('lab', { scope: 'file' }, async ({}, { onCleanup }) => {
    const lab = await Lab.start();
    onCleanup(() => lab[Symbol.asyncDispose]());
    return lab;
  })
  // A template of the lab in which nothing runs.
  .extend('template', { scope: 'file' }, ({ lab }) => lab.sharedTemplate('plain'))
  // A template of the lab that has the program of `installStorm`.
  .extend('stormTemplate', { scope: 'file' }, ({ lab }) => lab.sharedTemplate('storm'));
