// Every state of the widget, set by hand: an element without a company asks no server.
const NOW = { monthly: 42000, purchased: 8500, total: 50500, held: 0, available: 50500, period_end: '2027-01-01T00:00:00Z' };
const LOW = { ...NOW, monthly: 0, purchased: 620, total: 620, available: 620 };
const STATES = {
  loading: () => {},
  fine: (widget) => widget.show(NOW),
  held: (widget) => widget.show({ ...NOW, held: 15000, available: 35500 }),
  low: (widget) => widget.show(LOW),
  refused: (widget) => {
    widget.show(LOW);
    widget.showPaymentRequired({ status: 402, required: 15000, available: 620, upgrade_url: '../billing/upgrade' });
  },
  offline: (widget) => {
    widget.show(NOW);
    widget.show(NOW, 'old');
  },
  unauthorised: (widget) => widget.show({}, 'denied'),
  large: (widget) => widget.show({ monthly: '9007199254740993', purchased: 1, total: '9007199254740994', held: 0, available: '9007199254740994' }),
};
const TITLES = {
  loading: 'Loading',
  fine: 'Fine',
  held: 'Some tokens held for jobs that run',
  low: 'Below warn-below',
  refused: 'Payment required (402)',
  offline: 'Offline: the last figures, marked as old',
  unauthorised: 'Not authorised',
  large: 'Beyond 2⁵³, exact',
};

for (const [state, set] of Object.entries(STATES)) {
  const heading = document.createElement('h2');
  heading.textContent = TITLES[state];
  const row = document.createElement('div');
  row.className = 'row';
  for (const theme of ['light', 'dark']) {
    for (const lang of ['en', 'zh-TW']) {
      const widget = document.createElement('token-balance');
      widget.id = `${state}-${lang}-${theme}`;
      widget.lang = lang;
      widget.setAttribute('theme', theme);
      widget.setAttribute('upgrade-url', '../billing/upgrade');
      const ground = document.createElement('div');
      ground.className = theme;
      ground.append(widget);
      row.append(ground);
      set(widget);
    }
  }
  document.querySelector('main').append(heading, row);
}
