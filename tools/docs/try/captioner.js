// The captioner that `export_onnx(model, folder, attentions=True)` writes, run by onnxruntime: a picture in, and out
// come its caption and for each word its probability, how much it needs the picture, and where in it it comes from.
import {beamSearch, greedy, logSoftmax} from './decode.js'
import {tokenToPatch, wordMaps} from './maps.js'
import {pixelValues} from './pixels.js'
import {Detokenizer} from './text.js'

const sum = values => values.reduce((total, value) => total + value, 0)

// Repeat or choose rows of a tensor (rows,…).
function chosenRows(ort, tensor, rows) {
  const size = tensor.size/tensor.dims[0]
  const data = new Float32Array(rows.length*size)
  rows.forEach((row, i) => data.set(tensor.data.subarray(row*size, (row + 1)*size), i*size))
  return new ort.Tensor('float32', data, [rows.length, ...tensor.dims.slice(1)])
}

export class BrowserCaptioner {
  constructor(ort, config, settings, tokenizer, image, step) { // contents of the JSON files, and two sessions
    Object.assign(this, {ort, config, settings, image, step, text: new Detokenizer(tokenizer)})
  }

  // Read the files of an export; `read(name)` returns a file's bytes.
  static async load(ort, read) {
    const json = async name => JSON.parse(new TextDecoder().decode(await read(name)))
    const session = async name => ort.InferenceSession.create(await read(name))
    const config = await json('config.json')
    return new BrowserCaptioner(ort, config, await json('preprocessor_config.json'), await json('tokenizer.json'),
                                await session(config.image.file), await session(config.step.file))
  }

  // Compute from pixel values what the text attends to, and what the bridge attends to.
  async encode(pixels) {
    const {width, height} = this.settings.size
    const tensor = new this.ort.Tensor('float32', pixels, [1, 3, height, width])
    const found = await this.image.run({[this.config.image.inputs[0]]: tensor})
    const {outputs} = this.config.image
    const ofLayers = kind => outputs.filter(name => name.startsWith(`bridge_${kind}`)).map(name => found[name].data)
    return {visual: found.visual_keys_values, own: ofLayers('self'), seen: ofLayers('cross')}
  }

  emptyCache(texts) {
    const empty = ([heads, width]) => new this.ort.Tensor('float32', new Float32Array(0), [texts, heads, 0, width])
    return this.config.step.cache.map(empty)
  }

  // Read new tokens, the same number of each text; return scores, cache and attention.
  async read(ids, visual, cache) { // ids: an array per text
    const {Tensor} = this.ort
    const flat = BigInt64Array.from(ids.flat(), BigInt)
    const inputs = [new Tensor('int64', flat, [ids.length, ids[0].length]), visual, ...cache]
    const feeds = Object.fromEntries(this.config.step.inputs.map((name, i) => [name, inputs[i]]))
    const found = await this.step.run(feeds)
    const vocabulary = found.logits.dims[2]
    const rows = Array.from({length: found.logits.size/vocabulary},
                            (_, i) => found.logits.data.subarray(i*vocabulary, (i + 1)*vocabulary))
    const after = this.config.step.outputs.filter(name => name.startsWith('present.')).map(name => found[name])
    return {rows, cache: after, attention: found.attention.data}
  }

  // Return a function that decoding calls with the newest token of each text.
  stepper(visual) {
    let cache = this.emptyCache(1)
    return async (ids, parents) => {
      const same = parents.length === cache[0].dims[0] && parents.every((parent, i) => parent === i)
      if (!same) cache = cache.map(tensor => chosenRows(this.ort, tensor, parents))
      const found = await this.read(ids.map(id => [id]), chosenRows(this.ort, visual, ids.map(() => 0)), cache)
      cache = found.cache
      return found.rows
    }
  }

  // Return the log-probability of each token after the first, and the text's attention to the visual tokens.
  async score(ids, visual) {
    const {rows, attention} = await this.read([ids.slice(0, -1)], visual, this.emptyCache(1))
    return {scores: rows.map((row, i) => logSoftmax(row)[ids[i + 1]]), attention}
  }

  // Caption an RGB picture {data, width, height}; `onText` is called with what the captioner has so far.
  async caption(picture, onText = () => {}) {
    const {bos_token_id: start, eos_token_id: end, caption_length: longest, num_beams: beams} = this.config
    const pixels = pixelValues(picture, this.settings)
    const {visual, own, seen} = await this.encode(pixels)
    const decode = beams > 1 ? beamSearch : greedy
    const report = ids => onText(this.text.decode(ids).trim())
    const ids = await decode(this.stepper(visual), {start, end, longest, beams, onText: report})
    return {caption: this.text.decode(ids).trim(), words: await this.explain(ids, pixels.length, {visual, own, seen})}
  }

  // Describe each word of a caption.
  async explain(ids, size, {visual, own, seen}) {
    this.blank ||= (await this.encode(new Float32Array(size))).visual // a picture in the preprocessing's mean colour
    const {scores, attention} = await this.score(ids, visual)
    const blind = (await this.score(ids, this.blank)).scores
    const words = this.text.words(ids)
    const tokens = visual.dims[3]
    const maps = wordMaps(words, attention, tokens, tokenToPatch(own, seen, tokens))
    return words.map(({text, places}, i) => {
      const sounds = places.filter(place => /[\p{L}\p{N}]/u.test(this.text.decode([ids[place]]))) // no full stop
      const counted = sounds.length ? sounds : places
      return {text, map: maps[i], probability: Math.exp(sum(counted.map(place => scores[place - 1]))),
              needs: sum(places.map(place => scores[place - 1] - blind[place - 1]))}
    })
  }
}
