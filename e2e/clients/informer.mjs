// @kubernetes/client-node: typed calls, an informer that lives through the death of the API server, exec, and a Lease
// that one of two holders gets. KILL is the command that kills the API server. Prints "ok"/"FAILED" lines.
import { createRequire } from 'node:module';
import { execSync } from 'node:child_process';
import { PassThrough, Readable } from 'node:stream';

const k8s = createRequire(process.env.CLIENT_NODE + '/')('@kubernetes/client-node');
const kc = new k8s.KubeConfig();
kc.loadFromFile(process.env.KUBECONFIG);
const core = kc.makeApiClient(k8s.CoreV1Api), leases = kc.makeApiClient(k8s.CoordinationV1Api);
const namespace = 'nodeclient', sleep = (ms) => new Promise((done) => setTimeout(done, ms));
let passed = 0, failed = 0;

function check(name, ok, why = '') {
  if (ok) passed++; else failed++;
  console.log(ok ? `ok      ${name}` : `FAILED  ${name}: ${why}`);
}
async function until(name, seconds, fn) {
  const end = Date.now() + seconds * 1000;
  let last;
  while (Date.now() < end) {
    try { if (await fn()) return check(name, true); } catch (e) { last = e; }
    await sleep(100);
  }
  check(name, false, `not within ${seconds} s ${last ?? ''}`);
}
const code = async (p) => { try { await p; return 200; } catch (e) { return e.code; } };
const map = (name, data) => ({ namespace, body: { metadata: { name, labels: { watched: 'yes' } }, data } });

async function informer() {
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'watched=yes' });
  const inf = k8s.makeInformer(kc, `/api/v1/namespaces/${namespace}/configmaps`, list, 'watched=yes');
  const told = [];
  let errors = 0;
  for (const verb of ['add', 'update', 'delete']) inf.on(verb, (o) => told.push(`${verb} ${o.metadata.name}`));
  inf.on('error', () => { errors++; setTimeout(() => inf.start().catch(() => inf.emit?.('error')), 500); });
  const start = async () => { for (;;) try { return await inf.start(); } catch { await sleep(500); } };
  await core.createNamespacedConfigMap(map('before', { n: '1' }));
  await start();
  await until('an informer lists', 60, () => told.includes('add before'));
  await core.createNamespacedConfigMap(map('a', { n: '1' }));
  const a = await core.readNamespacedConfigMap({ name: 'a', namespace });
  a.data.n = '2';
  await core.replaceNamespacedConfigMap({ name: 'a', namespace, body: a });
  await core.deleteNamespacedConfigMap({ name: 'a', namespace });
  await until('and watches', 60, () => ['add a', 'update a', 'delete a'].every((x) => told.includes(x)));
  check('in order', told.indexOf('add a') < told.indexOf('update a') && told.indexOf('update a') < told.indexOf('delete a'));
  execSync(process.env.KILL);
  await until('the API server is back', 60, async () => (await code(core.listNamespace())) === 200);
  await core.createNamespacedConfigMap(map('after', { n: '1' }));
  await core.deleteNamespacedConfigMap({ name: 'before', namespace });
  await until('the informer goes on after the API server was killed', 60, () => inf.get('after', namespace) && !inf.get('before', namespace));
  check('its cache is what there is', JSON.stringify(inf.list().map((o) => o.metadata.name)) === JSON.stringify((await list()).items.map((o) => o.metadata.name)));
  await inf.stop();
}

async function exec() {
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'p' }, spec: { terminationGracePeriodSeconds: 1, containers: [
    { name: 'c', image: 'busybox:latest', imagePullPolicy: 'Never', command: ['sleep', '600'] }] } } });
  await until('a pod runs', 60, async () => (await core.readNamespacedPod({ name: 'p', namespace })).status.phase === 'Running');
  const run = (command, stdin) => new Promise((done, bad) => {
    const out = new PassThrough(), err = new PassThrough();
    let o = '', e = '';
    out.on('data', (x) => { o += x; });
    err.on('data', (x) => { e += x; });
    new k8s.Exec(kc).exec(namespace, 'p', 'c', command, out, err, stdin ?? null, false,
      (status) => setTimeout(() => done({ o, e, status }), 1000)).catch(bad);
  });
  const r = await run(['sh', '-c', 'echo out; echo err >&2; exit 5']);
  check('exec', r.o === 'out\n' && r.e === 'err\n', JSON.stringify(r));
  check('exec tells the exit code', r.status.status === 'Failure' && r.status.details.causes[0].message === '5', JSON.stringify(r.status));
  const s = await run(['head', '-c', '5'], Readable.from(['hello world']));
  check('exec with stdin', s.o === 'hello' && s.status.status === 'Success', JSON.stringify(s));
}

async function lease() {
  const now = () => new k8s.V1MicroTime(new Date());
  const claim = async (holder) => {
    const l = await leases.readNamespacedLease({ name: 'leader', namespace });
    if (l.spec.holderIdentity) return false;
    l.spec = { holderIdentity: holder, leaseDurationSeconds: 5, acquireTime: now(), renewTime: now() };
    await sleep(50);
    return (await code(leases.replaceNamespacedLease({ name: 'leader', namespace, body: l }))) === 200;
  };
  await leases.createNamespacedLease({ namespace, body: { metadata: { name: 'leader' }, spec: {} } });
  const got = await Promise.all(['a', 'b', 'c', 'd'].map(claim));
  check('one of four gets the Lease', got.filter(Boolean).length === 1, JSON.stringify(got));
  const l = await leases.readNamespacedLease({ name: 'leader', namespace });
  check('and holds it', l.spec.holderIdentity === 'abcd'[got.indexOf(true)] && !Number.isNaN(new Date(l.spec.renewTime).getTime()));
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
check('errors have their code', (await code(core.readNamespacedConfigMap({ name: 'nothing', namespace }))) === 404);
for (const part of [informer, exec, lease])
  try { await part(); } catch (e) { check(part.name, false, e.stack ?? e); }
await core.deleteNamespace({ name: namespace });
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
