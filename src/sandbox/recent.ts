/** Requests within a window of time that slides along, as a vendor counts them against a limit. */
export class Recent {
  readonly #window: number
  #times: number[] = []

  /** @param window Its length in milliseconds. */
  constructor(window: number) {
    this.#window = window
  }

  get count(): number {
    this.#times = this.#times.filter((time) => time > Date.now() - this.#window)
    return this.#times.length
  }

  add(): void {
    this.#times.push(Date.now())
  }

  /** Milliseconds until one more makes no more than `most`; 0: now. */
  wait(most: number): number {
    return this.count < most ? 0 : this.#times.at(-most)! + this.#window - Date.now()
  }
}
