// Sends bodies for `hostile-bodies.test.ts`, in a process of its own.
import { request } from 'node:http';

let kept = [];

process.on('message', ({ bodies, port, path, times, method }) => {
  if (bodies !== undefined) {
    kept = bodies.map((body) => Buffer.from(body));
    process.send('loaded');
    return;
  }
  const send = (body) =>
    new Promise((resolve, reject) => {
      const headers = { 'content-type': 'application/json' };
      const options = { host: '127.0.0.1', port, path, method, headers, agent: false };
      const asked = request(options, (reply) => {
        let text = '';
        reply.on('data', (chunk) => (text += chunk));
        reply.on('end', () => resolve({ status: reply.statusCode, text }));
      });
      asked.on('error', reject).end(body);
    });
  void Promise.all(Array.from({ length: times }, () => kept.map(send)).flat()).then((answers) => process.send(answers));
});
