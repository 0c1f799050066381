// Search of the docs site: words of the question, without endings and small words, ranked by where they stand and how
// rare they are. Sections are read from search.json when the box gets the focus.
(() => {
  'use strict'
  const SMALL = new Set(('a an and are as at be by can do does for from get has have how i if in into is it its my ' +
    'of on or our own s should so t than that the them then there these this to use using want was we what when where ' +
    'which who why will with you your').split(' '))
  const SAME = {photo: 'image', photograph: 'image', picture: 'image', pic: 'image', img: 'image', setup: 'install',
    finetun: 'train', cli: 'command', faster: 'speed', fast: 'speed', cuda: 'gpu', quantis: 'quantiz', dataset: 'data'}
  const stem = word => {
    let short = word
    for (const end of ['ations', 'ation', 'ings', 'ing', 'ates', 'ate', 'ies', 'ers', 'ed', 'es', 's', 'e', 'y']) {
      if (word.endsWith(end) && word.length - end.length >= 3) { short = word.slice(0, -end.length); break }
    }
    return SAME[word] || SAME[short] || short
  }
  const words = text => (text.toLowerCase().match(/[a-z0-9]+/g) || []).map(stem)
  const FIELDS = [['keywords', 6], ['section', 4], ['title', 3], ['description', 2], ['text', 1]]

  const prepare = entries => {
    const seen = new Map() // word -> number of sections that have it
    for (const entry of entries) {
      entry.words = {}
      const own = new Set()
      for (const [field] of FIELDS) {
        const counts = new Map()
        for (const word of words(entry[field] || '')) { counts.set(word, (counts.get(word) || 0) + 1); own.add(word) }
        entry.words[field] = counts
      }
      for (const word of own) seen.set(word, (seen.get(word) || 0) + 1)
    }
    return {entries, seen}
  }

  const count = (counts, word, begins) => {
    if (counts.has(word)) return counts.get(word)
    if (!begins) return 0
    for (const other of counts.keys()) if (other.startsWith(word)) return .5
    return 0
  }

  const find = (index, question, limit = 12) => {
    const raw = question.toLowerCase().match(/[a-z0-9]+/g) || []
    const kept = raw.filter(word => !SMALL.has(word))
    const asked = [...new Set((kept.length ? kept : raw).map(stem))]
    const last = asked[asked.length - 1]
    const found = []
    for (const entry of index.entries) {
      let score = 0
      let met = 0
      for (const word of asked) {
        let best = 0
        for (const [field, weight] of FIELDS) {
          const n = count(entry.words[field], word, word === last && word.length > 2)
          if (n) best += weight*n/(n + 1)
        }
        if (!best) continue
        met += 1
        score += best*Math.log(1 + index.entries.length/(1 + (index.seen.get(word) || 0)))
      }
      if (met) found.push([score*entry.weight*(met/asked.length)**2, entry])
    }
    found.sort((a, b) => b[0] - a[0])
    const shown = []
    const perPage = new Map()
    for (const [, entry] of found) {
      const page = entry.href.split('#')[0]
      perPage.set(page, (perPage.get(page) || 0) + 1)
      if (perPage.get(page) <= 2) shown.push(entry)
      if (shown.length === limit) break
    }
    return {asked, shown}
  }

  const safe = text => text.replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`)
  const marked = (text, asked) => safe(text).replace(/[A-Za-z0-9]+/g, word =>
    asked.includes(stem(word.toLowerCase())) ? `<mark>${word}</mark>` : word)
  const around = (text, asked) => {
    const first = [...text.matchAll(/[A-Za-z0-9]+/g)].find(m => asked.includes(stem(m[0].toLowerCase())))
    const start = Math.max(0, (first ? first.index : 0) - 50)
    const from = start ? text.indexOf(' ', start) + 1 : 0
    return (from ? '… ' : '') + text.slice(from, from + 170)
  }

  const box = document.querySelector('.docs-search')
  if (!box) return
  const input = box.querySelector('input')
  const list = box.querySelector('.docs-search-results')
  const up = (document.querySelector('meta[name="smalldocs:offset"]') || {content: ''}).content
  const asLink = (entry, i, asked) => {
    const place = entry.section ? `${entry.place} › ${entry.title}` : entry.place
    const text = entry.section ? entry.text : entry.description || entry.text
    return `<a role="option" id="found-${i}" href="${up}${entry.href}">` +
      `<strong>${marked(entry.section || entry.title, asked)}</strong>` +
      `<span class="docs-search-place">${safe(place)}</span>` +
      `<span class="docs-search-text">${marked(around(text, asked), asked)}</span></a>`
  }
  let index = null
  let active = -1
  const load = async () => {
    if (!index) index = fetch(up + 'search.json').then(answer => answer.json()).then(prepare)
    return index
  }
  const hide = () => { list.hidden = true; input.setAttribute('aria-expanded', 'false') }
  const show = html => {
    list.innerHTML = html
    list.hidden = false
    active = -1
    input.setAttribute('aria-expanded', 'true')
  }
  const answer = async () => {
    const question = input.value.trim()
    if (question.length < 2) return hide()
    const {asked, shown} = find(await load(), question)
    if (input.value.trim() !== question) return
    if (!shown.length) return show('<p class="docs-search-none">Nothing found</p>')
    show(shown.map((entry, i) => asLink(entry, i, asked)).join(''))
  }
  let timer = null
  input.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(answer, 100) })
  input.addEventListener('focus', () => { load(); answer() })
  input.addEventListener('keydown', event => {
    const links = [...list.querySelectorAll('a')]
    if (event.key === 'Escape') { hide(); return }
    if (!links.length || list.hidden) return
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault()
      active = (active + (event.key === 'ArrowDown' ? 1 : -1) + links.length) % links.length
      links.forEach((link, i) => link.classList.toggle('active', i === active))
      links[active].scrollIntoView({block: 'nearest'})
      input.setAttribute('aria-activedescendant', links[active].id)
    } else if (event.key === 'Enter') { event.preventDefault(); (links[active] || links[0]).click() }
  })
  document.addEventListener('click', event => { if (!box.contains(event.target)) hide() })
  document.addEventListener('keydown', event => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)
    if ((event.key === '/' && !typing) || ((event.metaKey || event.ctrlKey) && event.key === 'k')) {
      event.preventDefault()
      const opener = document.querySelector('.navbar-toggler')
      const menu = document.getElementById('navbarCollapse')
      if (opener && menu && !menu.classList.contains('show') && opener.offsetParent) opener.click()
      input.focus()
    }
  })
})()
