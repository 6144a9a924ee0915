/* Texts to ids: the ids of npsiglip.Tokenizer, and so of SiglipTokenizer of transformers 5.x.

   Reads spiece.model as it is: a protocol buffer with the pieces and their scores, the kind of model (unigram, as
   SigLIP's, or byte-pair encoding) and SentencePiece's normalisation, a trie over the bytes of UTF-8.
   Left out: sampling, user-defined symbols, texts with lone surrogates. */

export const SPACE = "\u2581"; // written for a space
const KINDS = { UNKNOWN: 2, UNUSED: 5, BYTE: 6, NORMAL: 1, USER: 4 };
const UNIGRAM = 1, BPE = 2;

const PUNCTUATION = /[!-/:-@[-`{-~]/g;
const WHITE_SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;

/** Lower case, ASCII punctuation deleted, runs of white space as one space, none at either end. */
export function canonicalize(text, lower = true) {
  return (lower ? text.toLowerCase() : text).replace(PUNCTUATION, "").replace(WHITE_SPACE, " ").replace(/^ | $/g, "");
}

/** The fields of a protocol buffer, [number, value]: whole numbers, or bytes. */
function* fields(bytes) {
  let at = 0;
  const whole = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = whole(), kind = key & 7;
    if (kind === 0) { yield [key >> 3, whole()]; continue; }
    const length = kind === 2 ? whole() : kind === 5 ? 4 : 8;
    yield [key >> 3, bytes.subarray(at, (at += length))];
  }
}

const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const to_text = (bytes) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
const from_text = (text) => new TextEncoder().encode(text);

/** spiece.model -> { pieces: [{ piece, score, kind }], model_type, charsmap, dummy_prefix, ... }. */
export function read_sentencepiece(bytes) {
  const found = { pieces: [], model_type: UNIGRAM, byte_fallback: false, charsmap: new Uint8Array(0), dummy_prefix: true, remove_spaces: true };
  for (const [number, value] of fields(bytes)) {
    if (number === 1) {
      const piece = { piece: "", score: 0, kind: KINDS.NORMAL };
      for (const [part, x] of fields(value)) {
        if (part === 1) piece.piece = to_text(x);
        if (part === 2) piece.score = view(x).getFloat32(0, true);
        if (part === 3) piece.kind = x;
      }
      found.pieces.push(piece);
    } else if (number === 2) {
      for (const [part, x] of fields(value)) {
        if (part === 3) found.model_type = x;
        if (part === 35) found.byte_fallback = Boolean(x);
      }
    } else if (number === 3) {
      for (const [part, x] of fields(value)) {
        if (part === 2) found.charsmap = x;
        if (part === 3) found.dummy_prefix = Boolean(x);
        if (part === 4) found.remove_spaces = Boolean(x);
      }
    }
  }
  return found;
}

/** SentencePiece's normalisation (nmt_nfkc): the longest match of a trie over bytes, again and again.
    `charsmap`: the trie's size, its units of 32 bits, then what matches become, each ended by a zero. */
class Normalizer {
  constructor({ charsmap, dummy_prefix, remove_spaces }) {
    const count = charsmap.length ? view(charsmap).getUint32(0, true) / 4 : 0;
    this.units = Uint32Array.from({ length: count }, (_, i) => view(charsmap).getUint32(4 + 4 * i, true));
    this.replacements = charsmap.subarray(4 + 4 * count);
    Object.assign(this, { dummy_prefix, remove_spaces });
  }

  /** The longest match at a place: [what it becomes, bytes that it takes]. */
  prefix(bytes, at) {
    const offset = (unit) => (unit >>> 10) << ((unit & 512) >>> 6);
    let found = null, node = this.units.length ? offset(this.units[0]) : 0;
    for (let i = at; i < bytes.length && this.units.length; i++) {
      node ^= bytes[i];
      const unit = this.units[node];
      if (((unit & 0x800000ff) >>> 0) !== bytes[i]) break;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) found = [this.units[node] & 0x7fffffff, i + 1 - at];
    }
    if (found) return [this.replacements.subarray(found[0], this.replacements.indexOf(0, found[0])), found[1]];
    const first = bytes[at], length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    return [bytes.subarray(at, at + length), length];
  }

  /** A text with "▁" for spaces, none of them doubled, one in front, none at the end. */
  normalize(text) {
    const bytes = from_text(text), out = [], space = [...from_text(SPACE)];
    let at = 0, after_space = this.remove_spaces;
    const is_space = (x) => x.length === 1 && x[0] === 32;
    if (this.remove_spaces)
      for (let [x, taken] = this.prefix(bytes, at); at < bytes.length && is_space(x); [x, taken] = this.prefix(bytes, at)) at += taken;
    if (at === bytes.length) return "";
    if (this.dummy_prefix) out.push(...space);
    while (at < bytes.length) {
      let [x, taken] = this.prefix(bytes, at);
      at += taken;
      while (after_space && x.length && x[0] === 32) x = x.subarray(1);
      for (const byte of x) byte === 32 ? out.push(...space) : out.push(byte);
      if (x.length) after_space = this.remove_spaces && x.at(-1) === 32;
    }
    let result = to_text(new Uint8Array(out));
    while (this.remove_spaces && result.endsWith(SPACE)) result = result.slice(0, -1);
    return result;
  }
}

/** spiece.model and a row's length -> ids. Names as in npsiglip.Tokenizer. */
export class Tokenizer {
  constructor(bytes, seq_len, { lower = true, eos = "</s>", unk = "<unk>", pad = "</s>" } = {}) {
    this.model = read_sentencepiece(bytes);
    this.normalizer = new Normalizer(this.model);
    Object.assign(this, { seq_len, lower, special: [eos, unk, pad], vocab_size: this.model.pieces.length });
    this.id_of = new Map(this.model.pieces.map(({ piece }, id) => [piece, id]));
    this.usable = new Map();
    this.model.pieces.forEach((entry, id) => [KINDS.NORMAL, KINDS.USER].includes(entry.kind) && this.usable.set(entry.piece, [id, entry.score]));
    this.longest = Math.max(...[...this.usable.keys()].map((piece) => [...piece].length));
    this.lowest = Math.min(...this.model.pieces.filter(({ kind }) => kind === KINDS.NORMAL).map(({ score }) => score));
    [this.eos_id, this.unk_id, this.pad_id] = this.special.map((token) => this.id_of.get(token));
    this.prefix_length = this.cut(this.normalizer.normalize(unk)).length;
  }

  /** Unigram: the pieces whose scores have the largest sum (Viterbi); a character that no piece has costs 10 more than
      the least likely piece. Sums in float32, as SentencePiece has them. */
  likeliest(letters) {
    const best = [{ score: 0 }], f = Math.fround;
    const offer = (end, score, start) => { if (!best[end] || score > best[end].score) best[end] = { score, start }; };
    for (let start = 0; start < letters.length; start++) {
      let piece = "", single = false;
      for (let end = start + 1; end <= Math.min(letters.length, start + this.longest); end++) {
        const entry = this.usable.get((piece += letters[end - 1]));
        if (!entry) continue;
        single ||= end === start + 1;
        offer(end, f(best[start].score + entry[1]), start);
      }
      if (!single) offer(start + 1, f(best[start].score + f(this.lowest - 10)), start);
    }
    const pieces = [];
    for (let end = letters.length; end > 0; end = best[end].start) pieces.unshift(letters.slice(best[end].start, end).join(""));
    return pieces;
  }

  /** Byte-pair encoding: the two neighbours whose merger has the highest score become one, again and again. */
  merged(letters) {
    const pieces = [...letters];
    for (;;) {
      let best = -1, score = -Infinity;
      for (let i = 0; i + 1 < pieces.length; i++) {
        const entry = this.usable.get(pieces[i] + pieces[i + 1]);
        if (entry && entry[1] > score) [best, score] = [i, entry[1]];
      }
      if (best < 0) return pieces;
      pieces.splice(best, 2, pieces[best] + pieces[best + 1]);
    }
  }

  /** A normalised text as pieces; neighbours that are unknown become one, or bytes where the model has pieces for them. */
  cut(text) {
    const letters = [...text], pieces = this.model.model_type === BPE ? this.merged(letters) : this.likeliest(letters);
    const known = (piece) => this.id_of.has(piece) && this.model.pieces[this.id_of.get(piece)].kind !== KINDS.UNKNOWN;
    const out = [];
    let after_unknown = false;
    for (const piece of pieces) {
      const unknown = !known(piece);
      if (unknown && this.model.byte_fallback)
        out.push(...[...from_text(piece)].map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`));
      else if (unknown && after_unknown) out.push(out.pop() + piece);
      else out.push(piece);
      after_unknown = unknown;
    }
    return out;
  }

  /** The pieces of one text, without the closing one. Special tokens split it; "<unk>" stands in front of each segment
      and is counted off again, so that no space is stripped or added there. */
  tokenize(text) {
    const pieces = [], [eos, unk] = this.special;
    for (const part of (SPACE + text.replaceAll(SPACE, " ")).split(/(<\/s>|<unk>)/)) {
      if (this.special.includes(part)) pieces.push(part);
      else if (part) {
        const cut = this.cut(this.normalizer.normalize(unk + canonicalize(part, this.lower)));
        pieces.push(...(cut.length >= this.prefix_length ? cut.slice(this.prefix_length) : cut));
      }
    }
    return pieces.length > 1 && pieces[0] === SPACE && this.special.includes(pieces[1]) ? pieces.slice(1) : pieces;
  }

  /** Ids of any length, closed by that of </s>. */
  encode(text) {
    return this.closed(this.tokenize(text).map((piece) => this.id_of.get(piece) ?? this.unk_id));
  }

  closed(ids) {
    return ids.at(-1) === this.eos_id ? ids : [...ids, this.eos_id];
  }

  /** { ids: seq_len of them, padded; length: of the text itself; truncated: whether its end was lost }. */
  row(text) {
    const ids = this.tokenize(text).map((piece) => this.id_of.get(piece) ?? this.unk_id);
    const kept = this.closed(ids.length >= this.seq_len ? ids.slice(0, this.seq_len - 1) : ids);
    const row = [...kept, ...new Array(this.seq_len - kept.length).fill(this.pad_id)];
    return { ids: row, length: kept.length, truncated: this.closed(ids).length > this.seq_len };
  }
}
