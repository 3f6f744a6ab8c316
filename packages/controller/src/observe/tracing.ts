import {
  type Attributes,
  type Span,
  context,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';
import type { Logger } from 'pino';
import { messageOf } from '../errors.ts';
import { version } from '../version.ts';

/** Each of these variables turns tracing on. */
const endpointNames = ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'];

/**
 * Sends spans to the collector that OpenTelemetry's variables name (OTLP over HTTP). Returns `null` if they name none; a
 * span then costs nothing. The returned function sends the remaining spans as far as the collector takes them, and ends.
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

/** Runs `run` in its own span, below that of the request. */
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

/** The span of a request, below that of its caller if the headers name one. `inside` runs the work of the request. */
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

/** The tracer of the registered provider. Without tracing that provider does nothing. */
function tracer(): ReturnType<typeof trace.getTracer> {
  return trace.getTracer('forkd-controller', version);
}
