// From token ids to text: the byte-level decoder of a tokenizer.json, and the words that tokens make up.

// Return which byte each character of the vocabulary stands for: GPT-2's table, in which every byte is visible.
function byteOfCharacter() {
  const bytes = new Map()
  const visible = byte => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
  let extra = 256
  for (let byte = 0; byte < 256; byte++) bytes.set(String.fromCodePoint(visible(byte) ? byte : extra++), byte)
  return bytes
}

export class Detokenizer {
  constructor(tokenizer) { // the content of tokenizer.json
    this.tokens = []
    for (const [token, id] of Object.entries(tokenizer.model.vocab)) this.tokens[id] = token
    this.special = new Set()
    for (const {id, content, special} of tokenizer.added_tokens) {
      this.tokens[id] = content
      if (special) this.special.add(id)
    }
    this.bytes = byteOfCharacter()
  }

  // Return the text of tokens, special ones left out.
  decode(ids) {
    const kept = ids.filter(id => !this.special.has(id)).map(id => this.tokens[id]).join('')
    const bytes = Uint8Array.from(kept, character => this.bytes.get(character))
    return new TextDecoder('utf-8', {ignoreBOM: true}).decode(bytes)
  }

  // Return the words of a caption, each with the places of its tokens; a token that begins with white space begins one.
  words(ids) {
    const spans = []
    ids.forEach((id, place) => {
      if (this.special.has(id)) return
      const space = [0x20, 0x0a, 0x09, 0x0d].includes(this.bytes.get(this.tokens[id][0]))
      if (space || !spans.length) spans.push([place])
      else spans[spans.length - 1].push(place)
    })
    const words = spans.map(places => ({text: this.decode(places.map(place => ids[place])).trim(), places}))
    return words.filter(word => word.text)
  }
}
