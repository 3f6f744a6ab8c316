/** The options cannot be satisfied. Reported as a sentence, with exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
