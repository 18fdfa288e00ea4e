# shellcheck shell=bash
#
# schemathesis for the test of the HTTP API; `deploy/local.sh` sources this.

SCHEMATHESIS_VERSION=4.32.0

# Prints where it is; installs it first, into a Python environment of its own, where it is missing.
schemathesis() {
  local home=$STATE/schemathesis-$SCHEMATHESIS_VERSION
  if [[ ! -e $home/complete ]]; then
    mkdir -p "$STATE"
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_missing python3-venv
    (
      flock 8
      # Written last: an installation that was killed begins again.
      [[ -e $home/complete ]] ||
        { say "Installing schemathesis $SCHEMATHESIS_VERSION into $home …" &&
          python3 -m venv --clear "$home" &&
          "$home/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS_VERSION" >&2 &&
          touch "$home/complete"; }
    ) 8>"$STATE/schemathesis.lock" || die 'schemathesis was not installed: see the output above'
  fi
  echo "$home/bin/schemathesis"
}
