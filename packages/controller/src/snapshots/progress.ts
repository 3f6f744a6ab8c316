export type TemplateStage = 'image' | 'kernel' | 'boot' | 'warm' | 'snapshot';

/** Is told how far the making of a template has come: a stage, and a sentence for people. */
export type OnProgress = (stage: TemplateStage, message: string) => void;
