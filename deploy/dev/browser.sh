# shellcheck shell=bash
#
# Chromium and its driver for the tests of the pages; `deploy/local.sh` sources this.

find_driver() {
  local path
  # CHROMEWEBDRIVER is where GitHub's machines have it.
  for path in "$(command -v chromedriver || true)" "${CHROMEWEBDRIVER:-}/chromedriver"; do
    [[ -x $path ]] || continue
    echo "$path"
    return
  done
  return 1
}

# Prints where chromedriver is; installs it first where it is missing.
browser() {
  find_driver && return
  install_missing chromium chromium-driver
  find_driver || die 'no chromedriver after the installation: see the output above'
}
