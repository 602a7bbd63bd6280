import { newSecret, newUserCode } from "./secrets.mjs";

/** Device authorizations (RFC 8628) between the request for a code and the login that ends them. */
export class Devices {
  #options;
  #issued;
  #byCode = new Map();
  #timers = new Set();

  constructor(options, issued) {
    this.#options = options;
    this.#issued = issued;
  }

  create(challenge) {
    const { deviceExpiresIn, autoApprove, autoApproveAccount, accounts } = this.#options;
    const device = {
      deviceCode: newSecret("dc"),
      userCode: newUserCode(),
      challenge,
      state: "pending",
      account: undefined,
      expiresAt: Date.now() + deviceExpiresIn * 1000,
    };
    this.#byCode.set(device.deviceCode, device);
    this.#issued.push(device.deviceCode);
    if (autoApprove || autoApprove === 0) {
      const account = autoApproveAccount ?? accounts[0];
      this.#after(autoApprove === true ? 0 : autoApprove, () => {
        if (device.state === "pending") this.approve(device.userCode, { account });
      });
    }
    return device;
  }

  #after(ms, action) {
    if (ms === 0) return action();
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, ms);
    this.#timers.add(timer);
  }

  get(deviceCode) {
    return this.#byCode.get(deviceCode);
  }

  pending() {
    return [...this.#byCode.values()].filter((device) => device.state === "pending");
  }

  /** Without a code: the newest pending one. */
  find(userCode) {
    if (userCode === undefined) return this.pending().at(-1);
    const wanted = String(userCode).trim().toUpperCase();
    return [...this.#byCode.values()].find((device) => device.userCode === wanted);
  }

  #settle(userCode, change) {
    const device = this.find(userCode);
    if (!device) throw new Error(`no device authorization has the user code ${userCode ?? "(any)"}`);
    Object.assign(device, change);
  }

  approve(userCode, { account = this.#options.accounts[0] } = {}) {
    this.#settle(userCode, { state: "approved", account });
  }

  deny(userCode) {
    this.#settle(userCode, { state: "denied" });
  }

  close() {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }
}
