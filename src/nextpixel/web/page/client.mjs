// Asks the worker.

export class Client {
  // `fail` is called where the worker itself cannot run.
  constructor(source, fail) {
    this.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    this.asked = new Map();
    this.next = 0;
    this.worker.onerror = (event) => fail(new Error("noWorker"));
    this.worker.onmessage = ({ data: { id, progress, result, error } }) => {
      const asked = this.asked.get(id);
      if (!asked) return;
      if (progress) return asked.show?.(progress);
      this.asked.delete(id);
      if (error === undefined) asked.resolve(result);
      else asked.reject(error === null ? new Cancelled() : Object.assign(new Error(error.message), { values: error.values }));
    };
  }

  // Returns a promise of the result, with a method `cancel`.
  ask(task, options, show) {
    const id = this.next++;
    const promise = new Promise((resolve, reject) => this.asked.set(id, { resolve, reject, show }));
    this.worker.postMessage({ id, task, ...options });
    promise.cancel = () => this.worker.postMessage({ cancel: id });
    return promise;
  }
}

export class Cancelled extends Error {}
