/** A measurement that is impossible here, and what to do about it. */
export class BenchError extends Error {
  override readonly name = 'BenchError';
  readonly hint: string;

  constructor(message: string, hint: string, options?: ErrorOptions) {
    super(message, options);
    this.hint = hint;
  }
}
