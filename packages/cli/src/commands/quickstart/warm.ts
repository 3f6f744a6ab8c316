/**
 * The warm-up: state that only this interpreter has, since half of it is random and was made here. `nonce` is ours, so
 * that an answer cannot come from a template of another run.
 */
export function warmCode(nonce: string): string {
  return `
import hashlib, json, os, random, socket
import numpy

def fingerprint(matrix):
    return hashlib.sha256((matrix @ matrix).tobytes()).hexdigest()[:16]

NONCE = ${JSON.stringify(nonce)}
SECRET = os.urandom(8).hex()
MATRIX = numpy.random.default_rng(int(SECRET, 16)).random((96, 96))
FINGERPRINT = fingerprint(MATRIX)

def answer():
    with open("/etc/machine-id") as file:
        machine_id = file.read().strip()
    return json.dumps({
        "nonce": NONCE,
        "secret": SECRET,
        "intact": fingerprint(MATRIX) == FINGERPRINT,
        "own": [socket.gethostname(), machine_id, random.random(), os.urandom(8).hex(), float(numpy.random.random())],
    })
`.trimStart();
}

/** What is asked of every child. */
export const QUESTION = 'answer()';

/** The names of `own`, in its order, for messages. */
export const ownNames = ['hostname', 'machine-id', 'random.random()', 'os.urandom()', 'numpy.random.random()'] as const;

export type ChildAnswer = { nonce: string; secret: string; intact: boolean; own: (string | number)[] };

/** The answer out of the repr of a Python string: JSON in ASCII without backslashes, in single quotes. */
export function parseAnswer(repr: string): ChildAnswer {
  return JSON.parse(repr.replace(/^'|'$/g, '')) as ChildAnswer;
}

/** How many of the answers share nothing with any other: a child that has but one value in common does not count. */
export function countDistinct(answers: readonly ChildAnswer[]): number {
  return answers.filter((answer) =>
    answers.every((other) => other === answer || answer.own.every((value, index) => value !== other.own[index])),
  ).length;
}

/** The values that some children have in common, by name, for a message. */
export function sharedNames(answers: readonly ChildAnswer[]): string[] {
  return ownNames.filter((_, index) => new Set(answers.map((answer) => answer.own[index])).size < answers.length);
}
