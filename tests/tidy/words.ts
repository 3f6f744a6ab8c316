/** Phrases that are not plain English, each with what to write in its place. */
export const bannedPhrases: readonly (readonly [phrase: RegExp, instead: string])[] = [
  [/\bwho(so)?ever\b/i, 'name the caller, the process or the user'],
  [/\balso if\b/i, 'even if'],
  [/\bcannot be had\b/i, 'is unavailable'],
  [/\bso-manieth\b/i, 'every n-th'],
  [/\bgiven back\b|\bgives? back\b|\bgave back\b|\bgiving back\b/i, 'freed'],
  [/\bone an? (line|folder|file|row|page|sandbox|VM)\b/i, 'one per'],
  [/\b(he|his|him)\b/, 'they, or the noun'],
  [/\bheld against\b/i, 'compared with'],
  [/\blets? go\b|\blet go\b/i, 'releases, evicts or resumes'],
  [/\btold of\b/i, 'informed about, or known'],
  [/\bgoes on\b|\bgo on\b/i, 'continues'],
  [/\bruns? on(?=[,.;:)]|$)/i, 'keeps running'],
  [/\bby and by\b|\banew\b/i, 'later, or again'],
];

/** Words that leave a comment without its noun if they open it: pronouns and prepositions. */
const OPENERS =
  'It Its They Their Them Those These This That One Ones He His Him Who Whoever Whose What Which Such Some Both None Nobody ' +
  'Of In On At By For From With Without Until To As Under Over Beside Besides Between Into Before After Like';

export const opener = new RegExp(`^(${OPENERS.split(' ').join('|')})\\b`);
