"use strict";

// Holds one client and one gateway for the process. OpenCode 2 sets the plugin up once for each directory.

const { isDeepStrictEqual } = require("node:util");
const { QwenClient } = require("../client");
const { clean } = require("../cli/text");
const { pluginOptions } = require("../validate");
const { watchFiles } = require("./watch");

const MAX_NEWS = 5;
const FIRST_WINS = "The first one's are used for all.";

/** The open instance, if there is one. */
let current;

/** The client, the gateway and the news that all directories share. */
class Shared {
  #users = 0;
  #settings;
  #listeners = new Set();
  #stopWatching;
  /** The latest messages for the user, since OpenCode 2 has no log and no toasts for plugins. */
  news = [];

  constructor(options) {
    const { settings, ignored } = pluginOptions(options);
    this.#settings = settings;
    this.client = new QwenClient({ ...settings, onEvent: (event) => this.#tell(event) }, true);
    /** Rejects if there can't be a gateway. */
    this.gateway = this.client.serve({}, { isBackground: true });
    this.gateway.catch(() => {});
    // The command line, another OpenCode and the qwen CLI change accounts too.
    this.#stopWatching = watchFiles(this.client.accountFiles, () => this.#send({ type: "accounts-changed" }));
    this.#noteIgnored(ignored);
  }

  /** Adds a directory. The options of the first directory apply to all. */
  join(options) {
    this.#users += 1;
    if (this.#users === 1) return;
    try {
      const { settings, ignored } = pluginOptions(options);
      this.#noteIgnored(ignored);
      if (isDeepStrictEqual(settings, this.#settings)) return;
      this.note(`This directory gives the plugin other options than the first one did. ${FIRST_WINS}`);
    } catch (error) {
      this.note(`${error.message} ${FIRST_WINS}`);
    }
  }

  /** Removes a directory, and closes everything with the last one. */
  async leave() {
    this.#users -= 1;
    if (this.#users > 0) return;
    if (current === this) current = undefined;
    this.#stopWatching();
    // Responses in progress get a moment to end.
    await this.gateway.then((gateway) => gateway.close()).catch(() => {});
    this.client.close();
  }

  /**
   * Calls `listener` with the client's events, and with `accounts-changed` when the account files change. Returns a
   * function that stops it.
   */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  note(message) {
    if (this.news.at(-1) === message) return;
    this.news.push(message);
    this.news.splice(0, this.news.length - MAX_NEWS);
  }

  #noteIgnored(names) {
    if (names.length === 0) return;
    const shown = names.slice(0, MAX_NEWS).map((name) => clean(name).slice(0, 40));
    this.note(
      `The plugin ignores these options, which OpenCode's configuration can't set: ${shown.join(", ")}.`,
    );
  }

  #tell(event) {
    if (event.type !== "refreshed" && event.type !== "retry") this.note(event.message);
    this.#send(event);
  }

  #send(event) {
    for (const listener of this.#listeners) listener(event);
  }
}

/**
 * Joins the shared client and returns it. Throws if there can't be one, for example without the addon or with invalid
 * options.
 */
function acquire(options) {
  current ??= new Shared(options);
  current.join(options);
  return current;
}

module.exports = { acquire };
