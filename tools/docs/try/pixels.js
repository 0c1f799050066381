// From a picture to the numbers that the vision tower takes, equal to what Python computes: Pillow's resize to the last
// bit (weights in fixed point, of a filter that widens where a picture shrinks), then rescale and normalize in float32.

const BITS = 22 // of the weights' fractions
const ONE = 2**BITS
const triangle = x => Math.max(0, 1 - Math.abs(x))
const cubic = x => {
  const a = -0.5
  const far = Math.abs(x)
  if (far < 1) return ((a + 2)*far - (a + 3))*far*far + 1
  return far < 2 ? (((far - 5)*far + 8)*far - 4)*a : 0
}
const FILTERS = {2: {weigh: triangle, support: 1}, 3: {weigh: cubic, support: 2}} // `resample` of the image processor

// Return for each new pixel of a row the first old one that counts, and the weights from there on.
function weightsOf(before, after, {weigh, support}) {
  const scale = before/after
  const wide = Math.max(scale, 1)
  return Array.from({length: after}, (_, i) => {
    const centre = (i + 0.5)*scale
    const first = Math.max(0, Math.trunc(centre - support*wide + 0.5))
    const end = Math.min(before, Math.trunc(centre + support*wide + 0.5))
    const weights = Array.from({length: end - first}, (_, k) => weigh((k + first - centre + 0.5)*(1/wide)))
    const sum = weights.reduce((total, weight) => total + weight, 0)
    const fixed = weight => Math.trunc(weight/sum*ONE + (weight < 0 ? -0.5 : 0.5))
    return {first, weights: Int32Array.from(weights, fixed)}
  })
}

// Resize along one direction: `lines` lines of `before` pixels, which lie `step` values apart, lines `stride` apart.
function resizeLines(from, to, before, after, lines, channels, step, stride, newStride, filter) {
  weightsOf(before, after, filter).forEach(({first, weights}, i) => {
    for (let line = 0; line < lines; line++) {
      for (let c = 0; c < channels; c++) {
        let sum = ONE/2
        const start = line*stride + first*step + c
        for (let k = 0; k < weights.length; k++) sum += weights[k]*from[start + k*step]
        to[line*newStride + i*step + c] = Math.min(255, Math.max(0, Math.floor(sum/ONE)))
      }
    }
  })
  return to
}

// Resize a picture {data, width, height}, whose pixels have `channels` values of 8 bits each.
export function resize({data, width, height}, newWidth, newHeight, channels, resample) {
  const filter = FILTERS[resample]
  if (!filter) throw new Error(`resample ${resample} is not known here: only 2 (bilinear) and 3 (bicubic) are`)
  let now = data
  if (newWidth !== width) {
    now = resizeLines(now, new Uint8Array(newWidth*height*channels), width, newWidth, height, channels,
                      channels, width*channels, newWidth*channels, filter)
  }
  if (newHeight !== height) {
    now = resizeLines(now, new Uint8Array(newWidth*newHeight*channels), height, newHeight, newWidth, channels,
                      newWidth*channels, channels, channels, filter)
  }
  return {data: now, width: newWidth, height: newHeight}
}

// Return the red, green and blue of a canvas' pixels, without their opacity.
export function withoutAlpha({data, width, height}) {
  const rgb = new Uint8Array(width*height*3)
  for (let i = 0; i < width*height; i++) rgb.set(data.subarray(4*i, 4*i + 3), 3*i)
  return {data: rgb, width, height}
}

// Preprocess an RGB picture as preprocessor_config.json says; the result is (3,H,W).
export function pixelValues(picture, settings) {
  const {width, height} = settings.size
  const small = resize(picture, width, height, 3, settings.resample)
  const plane = width*height
  const values = new Float32Array(3*plane)
  const rescale = Math.fround(settings.rescale_factor)
  for (let c = 0; c < 3; c++) {
    const mean = Math.fround(settings.image_mean[c])
    const std = Math.fround(settings.image_std[c])
    for (let i = 0; i < plane; i++) {
      const value = Math.fround(small.data[3*i + c]*rescale)
      values[c*plane + i] = Math.fround(value - mean)/std
    }
  }
  return values
}
