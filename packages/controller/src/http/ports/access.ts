/** The query parameter of a signed URL, and the cookie that stands for it. */
export const ACCESS = 'forkd_access';

/** The value of our cookie in the header of a request. */
export function cookieIn(header: string | undefined): string | null {
  const found = cookiesOf(header).find((pair) => pair.startsWith(`${ACCESS}=`));
  return found === undefined ? null : found.slice(ACCESS.length + 1);
}

/** The cookies of a request without ours. Empty: none is left. */
export function guestCookies(header: string): string {
  return cookiesOf(header)
    .filter((pair) => !pair.startsWith(`${ACCESS}=`))
    .join('; ');
}

function cookiesOf(header: string | undefined): string[] {
  return (header ?? '').split(';').map((pair) => pair.trim());
}

/** Takes the signature out of a path with its query. Everything else stays as it was written. */
export function takeSignature(url: string): { url: string; signature: string | null } {
  const [path = '', ...queries] = url.split('?');
  const parts = queries.join('?').split('&');
  const at = parts.findIndex((part) => part.startsWith(`${ACCESS}=`));
  if (queries.length === 0 || at < 0) return { url, signature: null };
  const signature = (parts[at] ?? '').slice(ACCESS.length + 1);
  const rest = parts.filter((part) => !part.startsWith(`${ACCESS}=`)).join('&');
  return { url: rest === '' ? path : `${path}?${rest}`, signature };
}
