/** Lists of rules that have a name, for what sandboxes often need. Each is shown by `forkd net presets`. */
export const networkPresets: Readonly<Record<string, readonly string[]>> = {
  'python-packages': ['pypi.org:443', 'files.pythonhosted.org:443'],
  npm: ['registry.npmjs.org:443'],
  github: [
    'github.com:443',
    'github.com:22',
    'api.github.com:443',
    'codeload.github.com:443',
    'raw.githubusercontent.com:443',
    'objects.githubusercontent.com:443',
  ],
  debian: ['deb.debian.org:80', 'deb.debian.org:443', 'security.debian.org:80', 'security.debian.org:443'],
};
