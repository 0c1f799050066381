// Captions pictures away from the page, which stays responsive. Messages in: {picture} (the pixels of a canvas);
// out: {loaded} (bytes), {text} (the caption so far), {done} (the caption and its words), {error}.
import {BrowserCaptioner} from './captioner.js'
import {withoutAlpha} from './pixels.js'
import * as ort from './ort/ort.wasm.min.mjs'

const place = name => new URL(name, import.meta.url).href
let loaded = 0

// Fetch a file of this site, and say how much has come.
async function read(name) {
  const answer = await fetch(place(name))
  if (!answer.ok) throw new Error(`${name}: the server answers ${answer.status}`)
  const parts = []
  const reader = answer.body.getReader()
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value)
    loaded += part.value.length
    postMessage({loaded})
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer())
}

async function load() {
  ort.env.wasm.wasmPaths = place('ort/')
  ort.env.wasm.wasmBinary = await read('ort/ort-wasm-simd-threaded.wasm')
  // threads share memory, which browsers allow to isolated pages only
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1
  return BrowserCaptioner.load(ort, name => read(`model/${name}`))
}

let captioner = null
self.onmessage = async ({data: {picture}}) => {
  try {
    captioner ||= load()
    const ready = await captioner
    const begun = performance.now()
    const found = await ready.caption(withoutAlpha(picture), text => postMessage({text}))
    postMessage({done: {...found, seconds: (performance.now() - begun)/1000}})
  } catch (error) {
    captioner = captioner && await captioner.catch(() => null) // a failed download is tried again
    postMessage({error: String(error.message || error)})
  }
}
