import { type CustomSeriesOption, type EChartsOption, init } from 'echarts';

const WIDTH = 960;
const HEIGHT = 460;
/** Colors that people with red-green color blindness can tell apart. */
const COLORS = ['#5b6470', '#1f77b4', '#8ec1e8', '#e69f00', '#b5442e'];

/** A bar up to `value`, and a line from there to `upTo`. */
export interface Bar {
  value: number;
  upTo?: number;
}

export interface BarChart {
  title: string;
  subtitle: string;
  /** Unit of the values, such as `ms`. */
  unit: string;
  groups: readonly string[];
  /** A bar in each group; `null` leaves its place empty. */
  series: readonly { name: string; bars: readonly (Bar | null)[] }[];
}

export interface LineChart {
  title: string;
  subtitle: string;
  xName: string;
  unit: string;
  x: readonly number[];
  series: readonly { name: string; values: readonly number[] }[];
}

/** Groups of bars over a logarithmic axis, as an SVG. */
export function drawBars(chart: BarChart): string {
  const values = chart.series.flatMap(({ bars }) =>
    bars.flatMap((bar) => (bar ? [bar.value, bar.upTo ?? bar.value] : [])),
  );
  const exponents = values.map(Math.log10);
  const series = chart.series.map(({ name, bars }, index) => barSeries(name, bars, index, chart.series.length));
  return draw(chart.title, chart.subtitle, {
    xAxis: { type: 'category', data: [...chart.groups], axisTick: { show: false }, axisLabel: { interval: 0 } },
    yAxis: {
      type: 'log',
      name: chart.unit,
      min: 10 ** Math.floor(Math.min(...exponents)),
      max: 10 ** Math.ceil(Math.max(...exponents)),
      axisLabel: { formatter: formatted },
    },
    series,
  });
}

/** Lines from zero up, as an SVG. */
export function drawLines(chart: LineChart): string {
  return draw(chart.title, chart.subtitle, {
    xAxis: { type: 'value', name: chart.xName, nameLocation: 'middle', nameGap: 28, minInterval: 1 },
    yAxis: { type: 'value', name: chart.unit, min: 0 },
    series: chart.series.map(({ name, values }, index) => ({
      type: 'line',
      silent: true,
      name,
      color: COLORS[index + 1] ?? '#000',
      symbolSize: 7,
      data: chart.x.map((x, at) => [x, values[at] ?? Number.NaN]),
    })),
  });
}

function draw(title: string, subtitle: string, options: EChartsOption): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height: HEIGHT });
  try {
    chart.setOption({
      animation: false,
      backgroundColor: '#ffffff',
      textStyle: { fontFamily: 'Arial, Helvetica, sans-serif' },
      title: { text: title, subtext: subtitle, left: 16, top: 12 },
      legend: { top: 66, left: 'center', itemGap: 30, selectedMode: false },
      grid: { left: 70, right: 24, top: 122, bottom: 48 },
      ...options,
    });
    return chart.renderToSVGString();
  } finally {
    chart.dispose();
  }
}

/** The bars of the library cannot stand side by side on a logarithmic axis with a line each. */
function barSeries(name: string, bars: readonly (Bar | null)[], index: number, count: number): CustomSeriesOption {
  const color = COLORS[index % COLORS.length] ?? '#000';
  return {
    type: 'custom',
    silent: true,
    name,
    color,
    data: bars.flatMap((bar, group) => (bar ? [[group, bar.value, bar.upTo ?? bar.value]] : [])),
    renderItem: (_params, api) => {
      const [group, value, upTo] = [0, 1, 2].map((dimension) => Number(api.value(dimension)));
      const [x = 0, y = 0] = api.coord([group ?? 0, value ?? 0]);
      const [, top = 0] = api.coord([group ?? 0, upTo ?? 0]);
      const groupWidth = (api.size?.([1, 0]) as number[] | undefined)?.[0] ?? 0;
      const width = Math.min(30, (groupWidth * 0.8) / count);
      const left = x + (index - count / 2) * width;
      const middle = left + width / 2;
      const bottom = HEIGHT - 48;
      const label = { text: formatted(value ?? 0), x: middle, y: Math.min(y, top) - 3, align: 'center' } as const;
      return {
        type: 'group',
        children: [
          { type: 'rect', shape: { x: left, y, width: width - 2, height: bottom - y }, style: { fill: color } },
          {
            type: 'line',
            shape: { x1: middle, y1: y, x2: middle, y2: top },
            style: { stroke: '#111', lineWidth: 1.2 },
          },
          { type: 'text', style: { ...label, verticalAlign: 'bottom', fill: '#333', fontSize: 9 } },
        ],
      };
    },
  };
}

function formatted(value: number): string {
  if (value >= 1000) return `${Number((value / 1000).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}
