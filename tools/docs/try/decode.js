// From scores of tokens to a caption: greedy decoding, and beam search as `generate` of transformers does it (length
// penalty 1, early stopping by its usual rule). `step` computes scores: step(ids, parents) takes the newest token of
// each text and the number of the earlier text that it continues, and returns an array of scores for each.

// Return the log-probabilities of scores, each increased by `add`.
export function logSoftmax(scores, add = 0) {
  const highest = scores.reduce((a, b) => Math.max(a, b), -Infinity)
  const sum = scores.reduce((total, score) => total + Math.exp(score - highest), 0)
  const less = highest + Math.log(sum) - add
  return scores.map(score => score - less)
}

// Return the `count` best of a list of candidates {score}; earlier ones first where scores are equal.
const best = (candidates, count) => [...candidates].sort((a, b) => b.score - a.score).slice(0, count)

// Return the `count` most probable tokens that continue a text.
function continuations(logProbabilities, parent, count) {
  const found = []
  let least = -Infinity // what a token must exceed once there are enough
  logProbabilities.forEach((score, id) => {
    if (found.length === count && score <= least) return
    if (found.length === count) found.pop()
    let place = found.length
    while (place > 0 && found[place - 1].score < score) place--
    found.splice(place, 0, {score, id, parent})
    least = found[found.length - 1].score
  })
  return found
}

// Return the ids of a greedy caption, from the start token on.
export async function greedy(step, {start, end, longest, onText = () => {}}) {
  const ids = [start]
  while (ids.length <= longest && (ids.length === 1 || ids[ids.length - 1] !== end)) {
    const [scores] = await step(ids.slice(-1), [0])
    ids.push(continuations(scores, 0, 1)[0].id)
    onText(ids)
  }
  return ids
}

// Return the ids of the caption that is most probable per token among those that the beams find.
export async function beamSearch(step, {start, end, longest, beams, onText = () => {}}) {
  let running = [{ids: [start], score: 0}]
  let parents = [0]
  let finished = []
  for (let length = 1; length <= longest; length++) { // tokens after the start
    // 1. the best continuations, twice as many as beams, since up to half may end
    const scores = await step(running.map(text => text.ids[text.ids.length - 1]), parents)
    const all = scores.flatMap((row, parent) => continuations(logSoftmax(row, running[parent].score), parent, 2*beams))
    const found = best(all, 2*beams)
    const ends = ({id}) => id === end || length === longest
    const extended = ({id, parent, score}) => ({ids: [...running[parent].ids, id], score})
    // 2. those that end compete with earlier ones by their mean, if they are among the first
    const ended = found.slice(0, beams).filter(ends).map(extended)
    finished = best([...finished, ...ended.map(({ids, score}) => ({ids, score: score/length}))], beams)
    // 3. the others go on
    const open = found.filter(text => !ends(text)).slice(0, beams)
    if (!open.length) break
    running = open.map(extended)
    parents = open.map(({parent}) => parent)
    onText(running[0].ids)
    if (finished.length === beams && running[0].score/length <= finished[beams - 1].score) break
  }
  return finished[0].ids
}
