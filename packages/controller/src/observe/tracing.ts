import type { Attributes, Span } from '@opentelemetry/api';
import { context, propagation, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';
import type { Logger } from 'pino';

import { messageOf } from '../errors.ts';
import { version } from '../version.ts';

/** Either of them turns tracing on. */
const endpointNames = ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'];

/**
 * Sends spans to a collector that OpenTelemetry's variables name (OTLP over HTTP); `null` when they name none, and then a
 * span costs nothing. What it returns sends what is left, for as long as the collector takes it, and ends.
 */
export async function openTracing(env: NodeJS.ProcessEnv, log: Logger): Promise<(() => Promise<void>) | null> {
  const isWanted = endpointNames.some((name) => env[name]);
  if (!isWanted || env['OTEL_SDK_DISABLED'] === 'true') return null;
  const [sdk, exporter, resources] = await Promise.all([
    import('@opentelemetry/sdk-trace-node'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/resources'),
  ]);
  const own = { 'service.name': env['OTEL_SERVICE_NAME'] ?? 'forkd-controller', 'service.version': version };
  const provider = new sdk.NodeTracerProvider({
    resource: resources.resourceFromAttributes(own),
    spanProcessors: [new sdk.BatchSpanProcessor(new exporter.OTLPTraceExporter())],
  });
  provider.register();
  return () => provider.shutdown().catch((error) => log.warn(`spans were not sent: ${messageOf(error)}`));
}

/** Does `run` in a span of its own, under that of the request. */
export function traced<T>(name: string, attributes: Attributes, run: (span: Span) => Promise<T>): Promise<T> {
  return tracer().startActiveSpan(name, { attributes }, async (span) => {
    try {
      return await run(span);
    } catch (error) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: messageOf(error) });
      throw error;
    } finally {
      span.end();
    }
  });
}

/** The span of a request, under that of its caller if the headers name one. `inside` does what belongs to it. */
export function requestSpan(
  method: string,
  headers: Readonly<Record<string, unknown>>,
): { span: Span; inside: <T>(run: () => T) => T } {
  const parent = propagation.extract(ROOT_CONTEXT, headers);
  const attributes = { 'http.request.method': method };
  const span = tracer().startSpan(method, { kind: SpanKind.SERVER, attributes }, parent);
  const own = trace.setSpan(parent, span);
  return { span, inside: (run) => context.with(own, run) };
}

/** Ends the span of a request. Its name is known only now: the route is found after the request has begun. */
export function endRequestSpan(span: Span, known: { method: string; route: string; status: number; id: string }): void {
  const { method, route, status, id } = known;
  span.updateName(`${method} ${route}`);
  span.setAttributes({ 'http.route': route, 'http.response.status_code': status, 'forkd.request_id': id });
  if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
  span.end();
}

/** Of whatever provider is registered: one that does nothing unless tracing was opened. */
function tracer(): ReturnType<typeof trace.getTracer> {
  return trace.getTracer('forkd-controller', version);
}
