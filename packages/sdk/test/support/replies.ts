import type http from 'node:http';

export function send(response: http.ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

export function line(response: http.ServerResponse, event: unknown): void {
  response.write(`${JSON.stringify(event)}\n`);
}

export function sendNothing(response: http.ServerResponse): void {
  response.writeHead(204);
  response.end();
}

export async function readJson(request: http.IncomingMessage): Promise<unknown> {
  let body = '';
  for await (const chunk of request) body += String(chunk);
  return JSON.parse(body || '{}');
}
