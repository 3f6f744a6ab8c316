/**
 * Calls the methods of a package, prints one line of JSON for each, `works` or its error, and ends the process.
 * @param {Record<string, () => Promise<void>>} methods
 */
export async function callAll(methods) {
  for (const [method, call] of Object.entries(methods)) {
    const result = await call().then(
      () => 'works',
      (error) => (process.env.E2B_STACKS ? error.stack : `${error.name}: ${error.message}`),
    );
    process.stdout.write(`${JSON.stringify({ method, result })}\n`);
  }
  process.exit(0);
}
