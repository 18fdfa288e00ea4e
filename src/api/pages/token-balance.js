// <token-balance company="…" token="…">: how many tokens a company has left. Its attributes, properties, events and
// parts are in deploy/REFERENCE.md, every state of it at /widget/demo. Served without comments and spaces.
(() => {
  // English, Traditional Chinese; the attribute text-low replaces `low`, and so on.
  const TEXTS = {
    available: ['Tokens available', '可用點數'],
    monthly: ['Monthly', '每月額度'],
    purchased: ['Purchased', '加購點數'],
    held: ['Held', '預留中'],
    end: ['Period ends {}', '本期至 {}'],
    low: ['Running low', '點數即將用完'],
    loading: ['Loading…', '載入中…'],
    old: ['Offline · as of {}', '離線，{} 的資料'],
    denied: ['No access to this balance', '無法查看餘額'],
    need: ['This needs {} tokens; {} are left.', '需要 {} 點，目前可用 {} 點。'],
    upgrade: ['Upgrade', '升級方案'],
  };
  const sheet = new CSSStyleSheet();
  // The variables are the page's to set, on the element.
  sheet.replaceSync(`
    :host{display:block;max-width:26em;color-scheme:light dark;
    --text:light-dark(#171a21,#eef0f4);--back:light-dark(#fff,#17191f);--low:light-dark(#b3261e,#ffa198)}
    :host([hidden]){display:none}
    :host([theme=light]){color-scheme:light}
    :host([theme=dark]){color-scheme:dark}
    p,dl,dd{margin:0}
    section{padding:1.2em;border:1px solid #8885;border-radius:.9em;color:var(--text);background:var(--back)}
    header{display:flex;justify-content:space-between;align-items:end}
    span,dt,[part=note]{font-size:.85em;opacity:.75}
    b{display:block;font-size:1.9em;overflow-wrap:anywhere}
    b,dd,a{font-weight:600;font-variant-numeric:tabular-nums}
    .low b{color:var(--low)}
    .old :is(b,dd){opacity:.7}
    a{padding:.4em 1em;border:1px solid;border-radius:.6em;text-decoration:none;color:var(--back);background:var(--low)}
    a:not([href]){visibility:hidden}
    dl{display:flex;flex-wrap:wrap;gap:.3em 1.6em;padding:.8em 0}
    [role=alert]:not(:empty){margin-top:.8em;padding-left:.8em;border-left:3px solid var(--low)}
    [role=status]{height:1px;opacity:0;overflow:hidden}`);
  const script = document.currentScript ?? document.querySelector('[src*=token-balance]');
  // A module that another one imports knows of no place: then `api` says where.
  const home = new URL('..', script?.src ?? location).href;
  const make = (tag, part = '', ...inside) => {
    const made = document.createElement(tag);
    made.part = part;
    made.append(...inside);
    return made;
  };

  customElements.get('token-balance') ?? customElements.define('token-balance', class extends HTMLElement {
    constructor() {
      super();
      let balance = {}, problem, refused, updated, request, timer, said, notBefore, failures = 0;
      const get = name => this.getAttribute(name);
      const tell = (type, detail) => this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true }));
      const total = make('div'), link = make('a', 'upgrade'), list = make('dl', 'buckets');
      const note = make('p', 'note'), message = make('p', 'message'), status = make('p');
      const box = make('section', 'box', make('header', '', total, link), list, note, message, status);
      message.role = 'alert';
      status.role = 'status';
      const root = this.attachShadow({ mode: 'open' });
      root.adoptedStyleSheets = [sheet];
      root.append(box);

      const render = () => {
        const lang = (this.closest('[lang]')?.lang || navigator.language).replace('_', '-');
        const text = (name, ...fills) => (get('text-' + name) ?? TEXTS[name][+/^zh/i.test(lang)]).replace(/{}/g, () => fills.shift());
        const number = value => isNaN(value) ? '–' : new Intl.NumberFormat(lang).format(value);
        const low = balance.available < +(get('warn-below') ?? 1000) ? 'low' : '';
        const trouble = problem && text(problem, updated?.toLocaleTimeString(lang, { timeStyle: 'short' }) ?? '–');
        const figure = (name, tag, of) => [make(tag, 'label', text(name)), make(of, name, number(balance[name]))];

        box.className = [low, problem].join(' ');
        total.replaceChildren(...figure('available', 'span', 'b'));
        list.replaceChildren(...['monthly', 'purchased', ...balance.held > 0 ? ['held'] : []]
          .map(name => make('div', '', ...figure(name, 'dt', 'dd'))));
        note.textContent = [trouble || !updated && text('loading'), low && text(low),
          balance.period_end && text('end', new Date(balance.period_end).toLocaleDateString(lang, { dateStyle: 'medium' }))].filter(Boolean).join(' · ') || '\xa0';
        message.textContent = refused ? text('need', number(refused.required), number(refused.available)) : '';
        link.textContent = text('upgrade');
        link.href = (low || refused) && (refused?.upgrade_url ?? get('upgrade-url')) || 'x:';
        if (!/^https?:/.test(link.protocol)) link.removeAttribute('href');
        // Said aloud when the state changes, not whenever a figure does.
        const state = trouble || text(low || 'available');
        if (state != said) status.textContent = said && state + ' ' + number(balance.available);
        said = state;
      };

      // A balance as the API answers it, and what is wrong with it: '', 'old' or 'denied'.
      this.show = (now, trouble) => {
        const changed = JSON.stringify(now) != JSON.stringify(balance);
        if (!trouble) updated = new Date();
        if (now.available >= +refused?.required) refused = problem = null;
        // What is the same stays as it is, a selection in it too.
        const other = changed || trouble != problem;
        balance = now;
        problem = trouble;
        if (other) render();
        if (changed) tell('balance-changed', now);
      };

      // The problem+json of a 402; null takes the message away.
      this.showPaymentRequired = now => {
        refused = now;
        render();
        if (now) tell('payment-required', now);
      };

      // At once; what was asked before is dropped.
      this.refresh = async () => {
        clearTimeout(timer);
        request?.abort();
        if (!updated) render();
        const later = ms => {
          clearTimeout(timer);
          timer = setTimeout(this.refresh, ms);
        };
        document[(this.isConnected ? 'add' : 'remove') + 'EventListener']('visibilitychange', this.refresh);
        if (!get('company') || !this.isConnected || document.hidden) return;
        if (Date.now() < notBefore) return later(notBefore - Date.now());
        const { signal } = request = new AbortController();
        const end = (trouble, now = balance, pause = 0) => {
          if (signal.aborted) return;
          request.abort();
          failures = trouble ? failures + 1 : 0;
          pause = Math.min(pause || 0, 3600);
          notBefore = Date.now() + pause * 1000;
          later(Math.max(Math.min((+get('refresh') || 5) * 2 ** failures, 300), pause, 1) * 1000);
          this.show(now, trouble);
        };
        timer = setTimeout(end, 10000, 'old');
        const ask = token => fetch((get('api') ?? home).replace(/\/?$/, `/v1/companies/${encodeURIComponent(get('company'))}/balance`),
          { headers: token ? { Authorization: 'Bearer ' + token } : {}, signal });
        try {
          let answer = await ask(this.token ?? get('token'));
          if (answer.status == 401 && this.tokenProvider) answer = await ask(this.token = await this.tokenProvider());
          if (!answer.ok) return end(/40[134]/.test(answer.status) ? 'denied' : 'old', balance, +answer.headers.get('Retry-After'));
          // Beyond 2^53 a number stays exact as text.
          const now = JSON.parse((await answer.text()).replace(/:\s*(-?\d{16,})/g, ':"$1"'));
          isNaN(now.available) ? end('old') : end('', now);
        } catch { end('old'); }
      };

      new MutationObserver(changes => {
        const names = changes.map(change => change.attributeName);
        // The figures of one company are never shown as another's.
        if (/api|company/.test(names)) balance = {}, updated = refused = null;
        /api|company|token/.test(names) ? this.refresh() : render();
      }).observe(this, { attributes: true });
    }

    connectedCallback() { this.refresh(); }
    disconnectedCallback() { this.refresh(); }
  });
})();
