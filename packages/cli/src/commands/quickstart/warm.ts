/**
 * The warm-up code: makes random state that only this interpreter has. `nonce` comes from this run, so an answer cannot come
 * from a template of another run.
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

/** The expression that every child evaluates. */
export const QUESTION = 'answer()';

/** The names of `own`, in its order, for messages. */
export const ownNames = ['hostname', 'machine-id', 'random.random()', 'os.urandom()', 'numpy.random.random()'] as const;

export interface ChildAnswer {
  nonce: string;
  secret: string;
  intact: boolean;
  own: (string | number)[];
}

/** Parses the repr of a Python string that holds the answer: ASCII JSON without backslashes, in single quotes. */
export function parseAnswer(repr: string): ChildAnswer {
  return JSON.parse(repr.replace(/^'|'$/g, '')) as ChildAnswer;
}

/** Counts the answers that share no value with any other answer. */
export function countDistinct(answers: readonly ChildAnswer[]): number {
  return answers.filter((answer) =>
    answers.every((other) => other === answer || answer.own.every((value, index) => value !== other.own[index])),
  ).length;
}

/** The names of values that some children have in common, for a message. */
export function sharedNames(answers: readonly ChildAnswer[]): string[] {
  return ownNames.filter((_, index) => new Set(answers.map((answer) => answer.own[index])).size < answers.length);
}
