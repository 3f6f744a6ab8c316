import { type CustomSeriesOption, type EChartsOption, init } from 'echarts';
import { formatTime } from '../units.ts';

const WIDTH = 960;
const HEADER_HEIGHT = 118;
const FOOTER_HEIGHT = 44;
const LEFT = 216;
/** Room for the figure of a value at the end of the axis. */
const RIGHT = 84;
/** Height of one value, with its figure beside it. */
const LANE_HEIGHT = 15;
const GROUP_GAP = 12;
/** Colors that people with red-green color blindness can tell apart. */
const COLORS = ['#5b6470', '#1f77b4', '#56b4e9', '#e69f00', '#b5442e'];

/** A dot at the median, a whisker to the 99th percentile, and a thin line to the maximum, all in milliseconds. */
export interface Dot {
  p50: number;
  p99?: number;
  max?: number;
}

export interface DotChart {
  /** The finding, in a sentence. */
  title: string;
  subtitle: string;
  groups: readonly string[];
  /** A value in each group; `null` if the group has none. */
  series: readonly { name: string; dots: readonly (Dot | null)[] }[];
}

/** Draws times as dots with whiskers over a logarithmic axis, a group below the other, as an SVG. */
export function drawDots(chart: DotChart): string {
  const lanes = chart.groups.map((_, group) => chart.series.flatMap(({ dots }, index) => (dots[group] ? [index] : [])));
  const laneCount = Math.max(...lanes.map((of) => of.length));
  const groupHeight = laneCount * LANE_HEIGHT + GROUP_GAP;
  const height = HEADER_HEIGHT + chart.groups.length * groupHeight + FOOTER_HEIGHT;
  const values = chart.series.flatMap(({ dots }) => dots.flatMap((dot) => (dot ? [dot.p50, farthest(dot)] : [])));
  const exponents = values.map(Math.log10);
  const [first, last] = [Math.floor(Math.min(...exponents)), Math.ceil(Math.max(...exponents))];
  const options: EChartsOption = {
    title: { text: chart.title, subtext: chart.subtitle, left: 16, top: 12, textStyle: { fontSize: 16 } },
    legend: { top: 72, left: 16, icon: 'circle', itemGap: 40, selectedMode: false },
    grid: { left: LEFT, right: RIGHT, top: HEADER_HEIGHT, bottom: FOOTER_HEIGHT },
    xAxis: {
      type: 'log',
      min: 10 ** first,
      max: 10 ** Math.max(last, first + 1),
      axisLabel: { formatter: formatTime },
      minorSplitLine: { show: true, lineStyle: { color: '#f0f1f4' } },
    },
    yAxis: {
      type: 'category',
      data: [...chart.groups],
      inverse: true,
      axisTick: { show: false },
      axisLabel: { interval: 0 },
      splitLine: { show: true },
    },
    series: chart.series.map(({ name, dots }, index) => dotSeries(name, dots, index, lanes)),
  };
  return draw(height, options);
}

function draw(height: number, options: EChartsOption): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height });
  try {
    const font = { fontFamily: 'Arial, Helvetica, sans-serif' };
    chart.setOption({ animation: false, backgroundColor: '#ffffff', textStyle: font, ...options });
    // The library numbers the charts and the classes of a process, and a file must not depend on what was drawn before it.
    const svg = chart.renderToSVGString().replaceAll(/\bzr\d+-/g, 'chart-');
    const classes = [...new Set(svg.match(/\bchart-cls-\d+/g))];
    return svg.replaceAll(/\bchart-cls-\d+/g, (name) => `chart-cls-${classes.indexOf(name)}`);
  } finally {
    chart.dispose();
  }
}

/** `lanes` has for each group the series that have a value there, from top to bottom. */
function dotSeries(
  name: string,
  dots: readonly (Dot | null)[],
  index: number,
  lanes: readonly (readonly number[])[],
): CustomSeriesOption {
  const color = COLORS[index % COLORS.length] ?? '#000';
  return {
    type: 'custom',
    silent: true,
    name,
    color,
    data: dots.flatMap((dot, group) => (dot ? [[group, dot.p50, dot.p99 ?? dot.p50, farthest(dot)]] : [])),
    renderItem: (_params, api) => {
      const [group = 0, p50 = 0, p99 = 0, max = 0] = [0, 1, 2, 3].map((dimension) => Number(api.value(dimension)));
      const [x = 0, middle = 0] = api.coord([p50, group]);
      const [whisker, end] = [p99, max].map((value) => api.coord([value, group])[0] ?? 0);
      const own = lanes[group] ?? [];
      const y = middle + (own.indexOf(index) - (own.length - 1) / 2) * LANE_HEIGHT;
      const line = (x2: number, lineWidth: number) =>
        ({ type: 'line', shape: { x1: x, y1: y, x2, y2: y }, style: { stroke: color, lineWidth } }) as const;
      const label = { text: formatTime(p50), x: (end ?? x) + 8, y, fontSize: 10, fill: '#333' };
      return {
        type: 'group',
        children: [
          line(end ?? x, 1),
          line(whisker ?? x, 3),
          { type: 'circle', shape: { cx: x, cy: y, r: 4.5 }, style: { fill: color } },
          { type: 'text', style: { ...label, verticalAlign: 'middle' } },
        ],
      };
    },
  };
}

function farthest({ p50, p99 = p50, max = p99 }: Dot): number {
  return max;
}
