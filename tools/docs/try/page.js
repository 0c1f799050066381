// The page "Try it": a picture is chosen, dropped or pasted; its caption appears word by word, and each word shows
// under the mouse or the keyboard's focus where in the picture it comes from. Nothing leaves the browser.
(() => {
  'use strict'
  const page = document.getElementById('try')
  const part = name => page.querySelector(`.try-${name}`)
  const [status, bar, figure, words, note] = ['status', 'bar', 'figure', 'words', 'note'].map(part)
  const picture = figure.querySelector('.try-picture')
  const veil = figure.querySelector('.try-veil')
  const bytes = Number(page.dataset.bytes)
  const longest = 4096 // pixels of a side that are worked with; larger pictures are made smaller first
  let worker = null
  let busy = false
  let loaded = false

  const say = (text, wrong = false) => {
    status.textContent = text
    status.classList.toggle('try-wrong', wrong)
  }
  const megabytes = n => (n/1e6).toFixed(0)
  const settle = () => {
    busy = false
    bar.hidden = true
    page.removeAttribute('aria-busy')
  }

  // Maps: what a word does not come from lies under a veil.
  const show = word => {
    veil.hidden = !word
    words.querySelectorAll('button').forEach(button => button.classList.toggle('try-on', button.word === word))
    if (!word) return
    const side = Math.sqrt(word.map.length)
    const highest = Math.max(...word.map)
    const small = document.createElement('canvas')
    small.width = small.height = side
    const context = small.getContext('2d')
    const cells = context.createImageData(side, side)
    word.map.forEach((share, i) => cells.data.set([9, 30, 48, 175*(1 - share/Math.max(highest, 1e-12))], 4*i))
    context.putImageData(cells, 0, 0)
    veil.width = veil.height = 32*side
    const drawn = veil.getContext('2d')
    drawn.imageSmoothingQuality = 'high'
    drawn.drawImage(small, 0, 0, veil.width, veil.height)
  }

  const buttonFor = (word, need) => {
    const button = document.createElement('button')
    button.type = 'button'
    button.word = word
    button.style.setProperty('--need', need.toFixed(2))
    const share = document.createElement('small')
    share.textContent = `${Math.round(100*word.probability)} %`
    button.append(word.text, share)
    button.setAttribute('aria-label', `${word.text}, probability ${share.textContent}`)
    button.addEventListener('mouseenter', () => show(word))
    button.addEventListener('mouseleave', () => show(document.activeElement === button ? word : null))
    button.addEventListener('focus', () => show(word))
    button.addEventListener('blur', () => show(null))
    button.addEventListener('click', () => button.focus())
    button.addEventListener('keydown', event => { if (event.key === 'Escape') button.blur() })
    return button
  }

  const finish = ({caption, words: found, seconds}) => {
    settle()
    const most = Math.max(...found.map(word => word.needs), 1e-9)
    words.replaceChildren(...found.map(word => buttonFor(word, Math.max(0, word.needs/most))))
    picture.setAttribute('aria-label', caption)
    note.hidden = false
    say(`${seconds.toFixed(1)} seconds in this browser.`)
  }

  const start = () => {
    worker = new Worker(new URL('docs/try/worker.js', document.baseURI), {type: 'module'})
    worker.onmessage = ({data}) => {
      if (data.loaded) {
        bar.value = data.loaded
        say(`Loading the captioner: ${megabytes(data.loaded)} of ${megabytes(bytes)} MB, once`)
        if (data.loaded < bytes) return
        bar.removeAttribute('value') // goes on, for as long as it takes
        if (!loaded) say('Looking at the picture …')
        loaded = true
      } else if (data.text) {
        say('Writing …')
        words.textContent = data.text
      } else if (data.done) finish(data.done)
      else if (data.error) fail(`The captioner does not run here: ${data.error}`)
    }
    worker.onerror = event => {
      worker = null
      fail(`The captioner does not start: ${event.message || 'this browser has no workers of modules'}`)
    }
  }

  const fail = text => {
    settle()
    words.textContent = ''
    say(text, true)
  }

  // Decode a file as Python does: upright, on white, colours as they are stored.
  const decode = async file => {
    const bitmap = await createImageBitmap(file, {colorSpaceConversion: 'none'})
    const scale = Math.min(1, longest/Math.max(bitmap.width, bitmap.height))
    picture.width = Math.max(1, Math.round(bitmap.width*scale))
    picture.height = Math.max(1, Math.round(bitmap.height*scale))
    const context = picture.getContext('2d', {willReadFrequently: true})
    context.fillStyle = '#fff'
    context.fillRect(0, 0, picture.width, picture.height)
    context.drawImage(bitmap, 0, 0, picture.width, picture.height)
    bitmap.close()
    return context.getImageData(0, 0, picture.width, picture.height)
  }

  const take = async file => {
    if (busy) return
    if (!file) return say('There is no picture in it: drop or paste the file of one.', true)
    busy = true
    page.setAttribute('aria-busy', 'true')
    let pixels
    try { pixels = await decode(file) } catch (error) {
      settle()
      return say(`${file.name || 'The file'} cannot be read: it is damaged, or no picture that browsers show.`, true)
    }
    show(null)
    figure.hidden = false
    note.hidden = true
    words.textContent = ''
    bar.hidden = false
    say(loaded ? 'Looking at the picture …' : `Loading the captioner: ${megabytes(bytes)} MB, once`)
    try {
      if (!worker) start()
      worker.postMessage({picture: pixels})
    } catch (error) {
      worker = null
      fail(location.protocol === 'file:'
        ? 'Browsers run this from a server only: python -m http.server -d _docs, then http://localhost:8000/try.html'
        : `The captioner does not start: ${error.message}`)
    }
  }

  bar.max = bytes
  const input = part('file')
  input.addEventListener('change', () => {
    if (input.files.length) take(input.files[0])
    input.value = '' // the same file may be chosen again
  })
  const example = part('example')
  if (example) {
    example.addEventListener('click', async () => {
      try { take(await (await fetch(example.dataset.picture)).blob()) } catch (error) {
        say(`The example cannot be fetched: ${error.message}`, true)
      }
    })
  }
  document.addEventListener('paste', event => {
    if (event.clipboardData.files.length) take(event.clipboardData.files[0])
  })
  const target = part('drop')
  for (const kind of ['dragover', 'dragleave', 'drop']) {
    document.addEventListener(kind, event => {
      event.preventDefault()
      target.classList.toggle('try-over', kind === 'dragover')
      if (kind === 'drop') take(event.dataTransfer.files[0])
    })
  }
  say(`The first photograph loads ${megabytes(bytes)} MB, once.`)
})()
