// BERT's tokenizer: text, words and punctuation, word pieces, ids.

import { CHINESE, COMPOSED, CONTROL, MARK, PUNCTUATION, WHITESPACE } from "./characters.js";

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Turns texts into the ids of a model's tokens. */
export class Tokenizer {
  #settings;
  #ids;
  #added;

  /** settings: `tokenizer` in the header of a model's file; vocabulary: a token a line. */
  constructor(settings, vocabulary) {
    this.#settings = settings;
    this.#ids = new Map(vocabulary.split("\n").map((token, id) => [token, id]));
    // The longest one is found where several begin at the same place.
    const contents = settings.added.map(({ content }) => content);
    contents.sort((a, b) => b.length - a.length);
    this.#added = contents.length ? new RegExp(`(${contents.map(escaped).join("|")})`, "u") : null;
  }

  /** The ids of a text, with those around it; a text that is too long is cut. */
  encode(text) {
    const { before, after, max_length: longest } = this.#settings;
    const ids = this.#pieces(text);
    return [...before, ...ids.slice(0, longest - before.length - after.length), ...after];
  }

  #pieces(text) {
    if (!this.#added) return this.#words(text).flatMap((word) => this.#wordPieces(word));
    return text.split(this.#added).flatMap((part, i) => {
      if (i % 2) return this.#settings.added.find(({ content }) => content === part).id;
      return this.#words(part).flatMap((word) => this.#wordPieces(word));
    });
  }

  #normalized(text) {
    const settings = this.#settings;
    let normalized = text;
    if (settings.clean_text) normalized = normalized.replace(CONTROL, "");
    if (settings.chinese_characters) normalized = normalized.replace(CHINESE, " $& ");
    if (settings.strip_accents) {
      normalized = normalized.replace(COMPOSED, (each) => each.normalize("NFD")).replace(MARK, "");
    }
    // One by one: the lower case of a whole word has another final sigma.
    if (settings.lowercase) normalized = Array.from(normalized, (each) => each.toLowerCase()).join("");
    return normalized;
  }

  /** Words, and each sign of punctuation alone. */
  #words(text) {
    const words = [];
    let word = "";
    const end = () => {
      if (word) words.push(word);
      word = "";
    };
    for (const character of this.#normalized(text)) {
      if (WHITESPACE.test(character)) end();
      else if (PUNCTUATION.test(character)) {
        end();
        words.push(character);
      } else word += character;
    }
    end();
    return words;
  }

  /** The longest pieces from the left that are in the vocabulary; one unknown token if none fit. */
  #wordPieces(word) {
    const { prefix, longest_word: longest, unknown } = this.#settings;
    const characters = [...word];
    if (characters.length > longest) return [unknown];
    const ids = [];
    for (let first = 0, last; first < characters.length; first = last) {
      let id;
      for (last = characters.length; last > first; last--) {
        const piece = characters.slice(first, last).join("");
        id = this.#ids.get(first ? prefix + piece : piece);
        if (id !== undefined) break;
      }
      if (id === undefined) return [unknown];
      ids.push(id);
    }
    return ids;
  }
}
