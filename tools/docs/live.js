// Pages that are shown live in a frame: as high as they are, and as light or dark as the page around them.
(() => {
  'use strict'
  const frames = [...document.querySelectorAll('iframe.live')]
  const fit = frame => {
    const inside = frame.contentDocument // null where the browser keeps files apart
    if (!inside || !inside.body) return
    const dark = document.documentElement.classList.contains('quarto-dark')
    inside.documentElement.style.colorScheme = dark ? 'dark' : 'light'
    const {marginTop, marginBottom} = inside.defaultView.getComputedStyle(inside.body)
    frame.style.height = `${inside.body.offsetHeight + parseFloat(marginTop) + parseFloat(marginBottom) + 4}px`
  }
  const fitAll = () => frames.forEach(fit)
  for (const frame of frames) {
    frame.addEventListener('load', () => {
      fit(frame)
      if (frame.contentDocument) new ResizeObserver(() => fit(frame)).observe(frame.contentDocument.body)
    })
    fit(frame)
  }
  new MutationObserver(fitAll).observe(document.documentElement, {attributes: true, attributeFilter: ['class']})
})()
