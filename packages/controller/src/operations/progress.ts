export type TemplateStage = 'image' | 'kernel' | 'boot' | 'warm' | 'output' | 'snapshot';

/** Called as a template is built, with the stage and a sentence for people. */
export type OnProgress = (stage: TemplateStage, message: string) => void;
