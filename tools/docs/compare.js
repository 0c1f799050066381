// The page that compares two runs: curves over each other, facts, metrics and parameters side by side. The runs are
// named in the address (compare.html?a=…&b=…); what is shown of one is experiments/NAME/compare.json.
(() => {
  'use strict'
  const form = document.getElementById('compare')
  if (!form) return
  const SVG = 'http://www.w3.org/2000/svg'
  const MARGIN = {left: 56, right: 12, top: 10, bottom: 36}
  const HEIGHT = 230
  const [first, second, onlyDifferent] = ['a', 'b', 'different'].map(name => form.elements[name])
  const parts = Object.fromEntries(['told', 'facts', 'curves', 'metrics', 'parameters'].map(
    name => [name, document.getElementById(`compared-${name}`)]))
  const known = new Set([...first.options].map(option => option.value))
  let runs = [] // the two that are shown

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name)
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
    element.append(...children)
    return element
  }
  const draw = (name, attributes, ...children) => {
    const element = document.createElementNS(SVG, name)
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
    element.append(...children)
    return element
  }
  const short = value => {
    if (typeof value !== 'number') return value === null || value === undefined ? '–' : String(value)
    if (Number.isInteger(value)) return value.toLocaleString('en')
    const size = Math.abs(value)
    return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(4))
  }
  const difference = (a, b) => {
    if (typeof a !== 'number' || typeof b !== 'number') return ''
    return a === b ? '0' : (b > a ? '+' : '−') + short(Math.abs(b - a))
  }

  // tables
  const page = name => make('a', {href: `archive/${encodeURIComponent(name)}.html`}, name)
  const table = (head, rows) => {
    const line = (cells, kind) => make('tr', {}, ...cells.map((cell, i) =>
      i || kind === 'td' ? make(i ? kind : 'th', i ? {} : {scope: 'row'}, cell) : make('th', {scope: 'col'}, cell)))
    return make('table', {class: 'compared'}, make('thead', {}, line(head, 'th')),
      make('tbody', {}, ...rows.map(row => line(row, 'td'))))
  }
  const sideBySide = (name, what) => {
    const [a, b] = runs.map(run => run[what])
    const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])]
    const shown = onlyDifferent.checked ? keys.filter(key => (a[key] ?? null) !== (b[key] ?? null)) : keys
    if (!shown.length) return make('p', {}, keys.length ? 'They are the same.' : 'Neither run has any.')
    return table([name, ...runs.map(run => page(run.name)), 'difference'],
      shown.map(key => [key, short(a[key]), short(b[key]), difference(a[key], b[key])]))
  }

  // curves
  const ticks = (low, high, count) => {
    const rough = (high - low || Math.abs(high) || 1)/count
    const power = 10**Math.floor(Math.log10(rough))
    const step = [1, 2, 5, 10].find(factor => factor*power >= rough)*power
    const found = []
    for (let k = Math.ceil(low/step); k*step <= high + step*1e-9; k++) found.push(+(k*step).toPrecision(12))
    return found
  }
  const nearest = (points, x) => points.reduce((best, p) => Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best)
  const told = (name, lines) => lines.map(([run, {axis, points}]) =>
    `${run.name}: ${name} from ${short(points[0][1])} at ${axis} ${short(points[0][0])} to ` +
    `${short(points[points.length - 1][1])} at ${axis} ${short(points[points.length - 1][0])}`).join('; ')

  const curve = (name, width) => {
    const lines = runs.map(run => [run, run.curves[name]]).filter(([, line]) => line)
    const all = lines.flatMap(([, line]) => line.points)
    const [xs, ys] = [0, 1].map(i => all.map(point => point[i]))
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)]
    const inner = [width - MARGIN.left - MARGIN.right, HEIGHT - MARGIN.top - MARGIN.bottom]
    const x = value => MARGIN.left + inner[0]*(value - left)/(right - left || 1)
    const y = value => MARGIN.top + inner[1]*(1 - (value - low)/(high - low || 1))
    const svg = draw('svg', {width, height: HEIGHT, role: 'img', 'aria-label': told(name, lines)})
    for (const value of ticks(low, high, 4)) {
      svg.append(draw('line', {class: 'grid', x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value)}),
        draw('text', {x: MARGIN.left - 6, y: y(value) + 4, 'text-anchor': 'end'}, short(value)))
    }
    for (const value of ticks(left, right, width > 500 ? 6 : 4)) {
      svg.append(draw('text', {x: x(value), y: HEIGHT - MARGIN.bottom + 16, 'text-anchor': 'middle'}, short(value)))
    }
    svg.append(draw('text', {x: MARGIN.left + inner[0]/2, y: HEIGHT - 3, 'text-anchor': 'middle'}, lines[0][1].axis))
    for (const [run, line] of lines) {
      const path = line.points.map((point, i) => `${i ? 'L' : 'M'}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`)
      const which = run === runs[0] ? 'a' : 'b'
      svg.append(draw('path', {class: `line-${which}`, d: path.join('')}))
      for (const point of line.points.length < 3 ? line.points : []) {
        svg.append(draw('circle', {class: `line-${which}`, cx: x(point[0]), cy: y(point[1]), r: 3}))
      }
    }
    const rule = draw('line', {class: 'rule', y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, x1: -9, x2: -9})
    svg.append(rule)
    const reading = make('figcaption', {}, told(name, lines))
    svg.addEventListener('pointermove', event => {
      const place = event.clientX - svg.getBoundingClientRect().left
      const at = left + (right - left)*Math.min(1, Math.max(0, (place - MARGIN.left)/inner[0]))
      for (const end of ['x1', 'x2']) rule.setAttribute(end, x(at))
      reading.textContent = lines.map(([run, line]) => {
        const [step, value] = nearest(line.points, at)
        return `${run.name}: ${short(value)} at ${line.axis} ${short(step)}`
      }).join('; ')
    })
    svg.addEventListener('pointerleave', () => {
      for (const end of ['x1', 'x2']) rule.setAttribute(end, -9)
      reading.textContent = told(name, lines)
    })
    return make('figure', {class: 'curve'}, make('h3', {}, name), svg, reading)
  }
  const order = name => ['loss', 'self-critical loss', 'reward'].indexOf(name.split(': ').pop())
  const showCurves = () => {
    const names = [...new Set(runs.flatMap(run => Object.keys(run.curves)))]
    names.sort((a, b) => (order(a) < 0) - (order(b) < 0) || order(a) - order(b) || a.localeCompare(b))
    const width = Math.max(240, Math.floor(parts.curves.clientWidth))
    const key = make('p', {class: 'key'}, ...runs.flatMap((run, i) => {
      const sample = draw('svg', {width: 34, height: 10, 'aria-hidden': 'true'},
        draw('path', {class: `line-${'ab'[i]}`, d: 'M1 5L33 5'}))
      return [make('span', {}, sample, ' ', run.name), ' ']
    }))
    const none = make('p', {}, 'Neither run has curves: it measured things once.')
    parts.curves.replaceChildren(...(names.length ? [key, ...names.map(name => curve(name, width))] : [none]))
  }

  const show = () => {
    const facts = ['result', 'kind', 'data', 'date', 'status', 'parent', 'seconds', 'machine']
    parts.facts.replaceChildren(table(['', ...runs.map(run => page(run.name))],
      facts.map(fact => [fact, ...runs.map(run => short(run.facts[fact]))])))
    showCurves()
    parts.metrics.replaceChildren(sideBySide('metric', 'metrics'))
    parts.parameters.replaceChildren(sideBySide('parameter', 'parameters'))
  }
  const fetched = new Map()
  const load = name => {
    if (!fetched.has(name)) {
      const file = `experiments/${encodeURIComponent(name)}/compare.json`
      fetched.set(name, fetch(file).then(answer => {
        if (!answer.ok) throw new Error(`${file}: ${answer.status}`)
        return answer.json()
      }))
    }
    return fetched.get(name)
  }
  const choose = async (a, b) => {
    try {
      const found = await Promise.all([load(a), load(b)])
      if (first.value !== a || second.value !== b) return // chosen anew meanwhile
      runs = found
      parts.told.textContent = a === b ? 'This is one run twice: choose another.' : ''
      show()
    } catch (error) {
      fetched.clear()
      parts.told.textContent = `The runs could not be read (${error.message}).`
    }
  }
  const chosen = () => {
    const address = new URL(location.href)
    address.searchParams.set('a', first.value)
    address.searchParams.set('b', second.value)
    history.replaceState(null, '', address)
    choose(first.value, second.value)
  }

  const asked = new URLSearchParams(location.search)
  const missing = ['a', 'b'].map(name => asked.get(name)).filter(name => name && !known.has(name))
  for (const select of [first, second]) {
    if (known.has(asked.get(select.name))) select.value = asked.get(select.name)
    select.addEventListener('change', chosen)
  }
  onlyDifferent.addEventListener('change', () => runs.length && show())
  form.elements.swap.addEventListener('click', () => {
    [first.value, second.value] = [second.value, first.value]
    chosen()
  })
  form.addEventListener('submit', event => event.preventDefault())
  let width = 0
  new ResizeObserver(() => {
    if (!runs.length || parts.curves.clientWidth === width) return
    width = parts.curves.clientWidth
    showCurves()
  }).observe(parts.curves)
  choose(first.value, second.value).then(() => {
    if (missing.length) parts.told.textContent = `There is no run “${missing.join('”, “')}” here; others are shown.`
  })
})()
