// From attention to a map for each word: attention rollout, as qvision.analysis.attribution composes it.

// Multiply (rows,inner) by (inner,columns).
function multiply(a, b, rows, inner, columns) {
  const product = new Float32Array(rows*columns)
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < inner; k++) {
      const factor = a[i*inner + k]
      for (let j = 0; j < columns; j++) product[i*columns + j] += factor*b[k*columns + j]
    }
  }
  return product
}

// Compose the bridge's attention over its layers: (tokens,patches), or null for a bridge with one token per patch.
export function tokenToPatch(own, seen, tokens, residual = 0.5) { // per layer (tokens,tokens) and (tokens,patches)
  let found = null
  own.forEach((attention, layer) => {
    const patches = seen[layer].length/tokens
    const mixed = attention.map((share, i) => (1 - residual)*share + (i % (tokens + 1) === 0 ? residual : 0))
    const below = found ? multiply(mixed, found, tokens, tokens, patches) : new Float32Array(tokens*patches)
    found = below.map((value, i) => value + seen[layer][i])
  })
  return found
}

// Return the map of each word, which adds up to 1: the mean over the rows of its tokens.
export function wordMaps(words, attention, tokens, ofTokens) { // attention (T,tokens): row t predicts token t + 1
  const rows = attention.length/tokens
  const patches = ofTokens ? ofTokens.length/tokens : tokens
  const maps = ofTokens ? multiply(attention, ofTokens, rows, tokens, patches) : attention
  return words.map(({places}) => {
    const map = new Float32Array(patches)
    for (const place of places) for (let p = 0; p < patches; p++) map[p] += maps[(place - 1)*patches + p]
    const sum = map.reduce((total, value) => total + value, 0)
    return map.map(value => value/Math.max(sum, 1e-12))
  })
}
