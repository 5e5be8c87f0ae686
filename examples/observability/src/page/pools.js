// Draws the samples that the server sends each second. No library: a chart is a few paths.

const KEPT = 120; // samples: two minutes
const HEIGHT = 40; // of a chart, in its own units; a sample is one unit wide

const milliseconds = value => value == null ? '–' : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const seconds = value => value == null ? 'none' : `${value} s`;
const count = value => `${value}`;
const change = (now, before, read) => before ? Math.max(0, read(now) - read(before)) : 0;
const retired = pool => pool.retired.reduce((sum, [, times]) => sum + times, 0);

// Each chart's series: how it is drawn, its value in a sample, and the current value as text.
// The first series of a chart is drawn first, below the others.
const charts = [
  {
    title: 'Connections',
    top: pool => pool.max,
    series: [
      { label: 'idle', kind: 'area', value: pool => pool.used + pool.idle, text: pool => count(pool.idle) },
      { label: 'used', kind: 'area', value: pool => pool.used, text: pool => count(pool.used) },
      { label: 'limit', kind: 'line', value: pool => pool.max, text: pool => count(pool.max) },
    ],
  },
  {
    title: 'Requests',
    top: pool => Math.max(pool.checkouts, pool.waiting, pool.failures),
    series: [
      { label: 'served/s', kind: 'line', value: pool => pool.checkouts, text: pool => count(pool.checkouts) },
      { label: 'waiting', kind: 'line', value: pool => pool.waiting, text: pool => count(pool.waiting) },
      { label: 'failed/s', kind: 'bar', value: pool => pool.failures, text: pool => count(pool.failures) },
    ],
  },
  {
    title: 'Checkout latency',
    unit: ' ms',
    top: pool => pool.p95 ?? 0,
    series: [
      { label: 'p95', kind: 'line', value: pool => pool.p95, text: pool => milliseconds(pool.p95) },
      { label: 'median', kind: 'line', value: pool => pool.median, text: pool => milliseconds(pool.median) },
    ],
  },
  {
    title: 'Token',
    unit: ' s',
    top: pool => pool.token.expires_in ?? 0,
    series: [
      { label: 'expires in', kind: 'area', value: pool => pool.token.expires_in, text: pool => seconds(pool.token.expires_in) },
      { label: 'requests', kind: 'mark', value: (pool, before) => change(pool, before, p => p.token.requests - p.token.failures), text: pool => count(pool.token.requests) },
      { label: 'failed', kind: 'mark', value: (pool, before) => change(pool, before, p => p.token.failures), text: pool => count(pool.token.failures) },
    ],
  },
  {
    title: 'Logins and retirements',
    top: (pool, before) => Math.max(change(pool, before, p => p.logins), change(pool, before, retired)),
    series: [
      { label: 'logins', kind: 'bar', value: (pool, before) => change(pool, before, p => p.logins), text: pool => count(pool.logins) },
      { label: 'retired', kind: 'bar', value: (pool, before) => change(pool, before, retired), text: pool => count(retired(pool)) },
    ],
  },
];

const find = id => document.getElementById(id);
const copy = id => find(id).content.firstElementChild.cloneNode(true);
const add = (parent, name, text = '') => {
  const element = parent.appendChild(document.createElement(name));
  element.textContent = text;
  return element;
};
// Names as classes: 'expires in' is 'expires-in'.
const slug = label => label.replace(/[^a-z0-9]+/gi, '-').toLowerCase();

let samples = [];
let views = [];

// The path of a series. `values` end at the right border; `null` is a gap.
function path(kind, values, top) {
  const left = KEPT - values.length;
  const y = value => (HEIGHT - HEIGHT * Math.min(1, value / top)).toFixed(2);
  let d = '';
  if (kind === 'bar' || kind === 'mark') {
    values.forEach((value, at) => {
      if (value > 0) d += `M${left + at} ${HEIGHT}V${kind === 'mark' ? 0 : y(value)}`;
    });
    return d;
  }
  let from = null;
  values.forEach((value, at) => {
    const x = left + at;
    if (value != null) {
      d += `${from == null ? (kind === 'area' ? `M${x} ${HEIGHT}L` : 'M') : 'L'}${x} ${y(value)}`;
      from ??= x;
    }
    const ends = from != null && (value == null || at === values.length - 1);
    if (ends && kind === 'area') d += `V${HEIGHT}Z`;
    if (value == null) from = null;
  });
  return d;
}

// The next round number, so that the scale does not change with each sample.
function rounded(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].find(step => step * power >= value) * power;
}

function chartView(parent, chart) {
  const figure = parent.appendChild(copy('chart'));
  figure.querySelector('figcaption').textContent = chart.title;
  const svg = figure.querySelector('svg');
  const list = figure.querySelector('ul');
  const series = chart.series.map(({ label, kind }) => {
    const shape = svg.appendChild(document.createElementNS(svg.namespaceURI, 'path'));
    shape.setAttribute('class', `${kind} ${slug(label)}`);
    return shape;
  });
  const texts = chart.series.map(({ label, kind }) => {
    const item = add(list, 'li');
    add(item, 'i').className = `${kind} ${slug(label)}`;
    item.append(` ${label} `);
    return add(item, 'b');
  });
  return pools => {
    const before = at => pools[at - 1];
    const now = pools.at(-1);
    const top = rounded(Math.max(...pools.map((pool, at) => chart.top(pool, before(at)))));
    figure.querySelector('.top').textContent = `${top}${chart.unit ?? ''}`;
    chart.series.forEach(({ kind, value, text }, at) => {
      const values = pools.map((pool, at) => value(pool, before(at)));
      series[at].setAttribute('d', path(kind, values, top));
      texts[at].textContent = text(now);
    });
    const values = chart.series.map(({ label, text }) => `${label} ${text(now)}`).join(', ');
    svg.setAttribute('aria-label', `${chart.title} of ${now.title} in the last two minutes. Now: ${values}.`);
  };
}

function poolView(at) {
  const section = find('pools').appendChild(copy('pool'));
  const part = name => section.querySelector(name);
  const draw = charts.map(chart => chartView(part('.charts'), chart));
  part('.charts').append(part('.facts'));
  return () => {
    const pools = samples.map(sample => sample.pools[at]);
    const now = pools.at(-1);
    part('h2').textContent = now.title;
    part('.name').textContent = now.name;
    const error = now.error ?? now.token.error;
    part('.error').hidden = error == null;
    part('.error').textContent = error ?? '';
    const reasons = now.retired.map(([reason, times]) => `${reason} (${times})`);
    part('.reasons').textContent = reasons.length ? `Retired: ${reasons.join('; ')}.` : 'No connection was retired.';
    const { principal, credential, refresh_in } = now.token;
    const refresh = refresh_in > 0 ? `next refresh in ${seconds(refresh_in)}` : 'due for a refresh';
    part('.token').textContent = `Token of ${principal ?? 'an unnamed principal'}, ${refresh}. Source: ${credential}.`;
    draw.forEach(chart => chart(pools));
  };
}

function drawTable(pools) {
  const [head, body] = [find('values').tHead, find('values').tBodies[0]];
  head.replaceChildren();
  body.replaceChildren();
  const row = (parent, label, texts, cell) => {
    const tr = add(parent, 'tr');
    add(tr, 'th', label).scope = parent === head ? 'col' : 'row';
    texts.forEach(text => add(tr, cell, text));
  };
  row(head, 'Value', pools.map(pool => pool.title), 'th');
  head.querySelectorAll('th').forEach(cell => cell.scope = 'col');
  for (const { title, series } of charts) {
    for (const { label, text } of series) row(body, `${title}: ${label}`, pools.map(text), 'td');
  }
  row(body, 'Logins: refused', pools.map(pool => count(pool.refused)), 'td');
  row(body, 'Logins: retried', pools.map(pool => count(pool.retried)), 'td');
}

function draw() {
  const now = samples.at(-1);
  if (!views.length) views = now.pools.map((_, at) => poolView(at));
  views.forEach(view => view());
  drawTable(now.pools);
  if (document.activeElement !== find('load')) find('load').value = now.load;
  find('rate').textContent = now.load;
  find('faults').hidden = now.identity_is_down == null;
  find('identity').setAttribute('aria-pressed', now.identity_is_down === true);
}

// A change of state is announced to screen readers; the numbers of each second are not.
function state(text, name) {
  if (find('state').textContent === text) return;
  find('state').textContent = text;
  find('state').className = name;
}

const events = new EventSource('events');
events.onmessage = ({ data }) => {
  const fresh = JSON.parse(data);
  // After a lost connection, the server sends the last two minutes again.
  samples = fresh.length > 1 ? fresh : samples.concat(fresh).slice(-KEPT);
  if (!samples.length) return;
  draw();
  const { pools, identity_is_down } = samples.at(-1);
  const failing = pools.filter(pool => pool.error).map(pool => pool.title);
  if (failing.length) state(`Requests to ${failing.join(' and ')} fail`, 'bad');
  else if (identity_is_down) state('The identity endpoint is down: the pools work with the tokens that they have', 'warn');
  else if (pools.some(pool => pool.token.error)) state('The last request for a token failed: it is retried', 'warn');
  else state('All requests succeed', 'good');
};
events.onerror = () => state('The connection to the server is lost: reconnecting …', 'bad');

const send = (method, path, body) => fetch(path, {
  method,
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(body),
}).then(response => response.ok || state(`The server refused that (${response.status})`, 'bad'));

find('controls').addEventListener('submit', event => event.preventDefault());
find('load').addEventListener('input', ({ target }) => {
  find('rate').textContent = target.value;
  send('PUT', 'load', { per_second: Number(target.value) });
});
find('identity').addEventListener('click', ({ target }) =>
  send('PUT', 'faults/identity', { down: target.getAttribute('aria-pressed') !== 'true' }));
find('cut').addEventListener('click', () => send('POST', 'faults/cut', null));
