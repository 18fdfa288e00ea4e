// A clock that the test turns by hand, and a list of what went wrong on the page.
window.timers = new Map();
window.setTimeout = (run, ms, ...inputs) => {
  const id = Math.random();
  timers.set(id, { run, ms, inputs });
  return id;
};
window.clearTimeout = (id) => timers.delete(id);
// Fires whatever is due by then.
window.pass = (ms) => {
  for (const [id, timer] of [...timers]) {
    if (timer.ms <= ms && timers.delete(id)) timer.run(...timer.inputs);
  }
};
window.problems = [];
addEventListener('securitypolicyviolation', (event) => problems.push(event.violatedDirective + ' ' + event.blockedURI));
addEventListener('error', (event) => problems.push(event.message));
addEventListener('unhandledrejection', (event) => problems.push(String(event.reason)));
window.events = [];
for (const type of ['balance-changed', 'payment-required']) {
  addEventListener(type, (event) => events.push([type, event.detail]));
}
