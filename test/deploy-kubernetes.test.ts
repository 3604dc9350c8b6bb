// The manifests against their schemas, and against what they have to agree with: the configuration in the
// ConfigMap, the gateway's routes, one another.

import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { ScaledObject } from '@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject';
import { Deployment } from 'kubernetes-models/apps/v1/Deployment';
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1/NetworkPolicy';
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1/PodDisruptionBudget';
import { ConfigMap } from 'kubernetes-models/v1/ConfigMap';
import { Service } from 'kubernetes-models/v1/Service';
import { afterAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { type Config, loadConfig } from '../src/config.ts';
import { start, stopGateways } from './support/gateway.ts';

const kinds = { ConfigMap, Deployment, NetworkPolicy, PodDisruptionBudget, ScaledObject, Service };
type Kind = keyof typeof kinds;

/** Beyond preStop and stop_ms_max: open requests, heartbeats, a slow Redis. */
const GRACE_MARGIN_S = 10;

const files = globSync('deploy/kubernetes/*.yaml')
  .map((path) => basename(path))
  .sort();
const read = (name: string): unknown => parse(readFileSync(`deploy/kubernetes/${name}`, 'utf8'));
const dir = mkdtempSync(join(tmpdir(), 'subito-manifests-'));
afterAll(async () => {
  rmSync(dir, { recursive: true });
  await stopGateways();
});

type Data<T> = T extends abstract new (data: infer D) => unknown ? NonNullable<D> : never;
const deployment = read('deployment.yaml') as Data<typeof Deployment>;
const pod = deployment.spec!.template.spec!;
const container = pod.containers[0]!;
const scaledObjects = files
  .filter((name) => name.startsWith('scaledobject'))
  .map((name) => read(name) as Data<typeof ScaledObject>);
const kustomization = read('kustomization.yaml') as { resources: string[]; namespace: string };

function configOf(): Config {
  const { data } = read('configmap.yaml') as { data: Record<string, string> };
  const file = join(dir, 'subito.yaml');
  writeFileSync(file, data['subito.yaml'] as string);
  return loadConfig({ file, env: {} });
}
const config = configOf();

function validate(manifest: unknown): void {
  const { kind, apiVersion } = manifest as { kind: Kind; apiVersion: string };
  const Model = kinds[kind];
  expect(apiVersion).toBe(Model.apiVersion);
  new Model(manifest as never).validate();
}

describe('schemas', () => {
  test.for(files.filter((name) => name !== 'kustomization.yaml'))('%s', (name) => validate(read(name)));

  test('they refuse what is wrong', () => {
    const broken = structuredClone(deployment);
    Object.assign(broken.spec!.template.spec!, { terminationGracePeriodSeconds: '25 s' });
    expect(() => validate(broken)).toThrow(/terminationGracePeriodSeconds/);
    expect(() => validate({ ...scaledObjects[0], spec: { triggers: [] } })).toThrow(/scaleTargetRef/);
  });
});

test('the kustomization has every manifest, and one ScaledObject of the two', () => {
  const { resources } = kustomization;
  expect(resources).toContain('scaledobject.yaml');
  const left = files.filter((name) => !resources.includes(name));
  expect(left).toEqual(['kustomization.yaml', 'scaledobject-metrics-api.yaml']);
  expect(resources.filter((name) => !files.includes(name))).toEqual([]);
});

test('a pod has the time that the engine takes to stop', () => {
  const [sleep, seconds] = container.lifecycle!.preStop!.exec!.command!;
  expect(sleep).toBe('sleep');
  const stopS = Math.ceil(config.limits.stopMsMax / 1000);
  expect(pod.terminationGracePeriodSeconds).toBe(Number(seconds) + stopS + GRACE_MARGIN_S);
});

test('it runs with no more rights than it needs', () => {
  expect(pod).toMatchObject({ automountServiceAccountToken: false, enableServiceLinks: false });
  expect(pod.securityContext).toMatchObject({
    runAsNonRoot: true,
    seccompProfile: { type: 'RuntimeDefault' },
  });
  expect(container.securityContext).toEqual({
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
  });
  expect(Object.keys(container.resources!.requests!)).toEqual(
    expect.arrayContaining(['cpu', 'memory', 'ephemeral-storage']),
  );
  expect(container.resources!.limits).toHaveProperty('memory');
  for (const forbidden of ['hostNetwork', 'hostPID', 'hostIPC', 'serviceAccountName'])
    expect(pod).not.toHaveProperty(forbidden);
  const user = String(pod.securityContext!.runAsUser);
  expect(readFileSync('deploy/Dockerfile', 'utf8')).toContain(`USER ${user}:`);
});

test('probes, ports and the way to the configuration are those of the engine', async () => {
  const probes = [container.startupProbe!, container.readinessProbe!, container.livenessProbe!];
  expect(probes.map((probe) => probe.httpGet!.path)).toEqual([
    '/v2/health/live',
    '/v2/health/ready',
    '/v2/health/live',
  ]);
  const { gateway } = await start();
  for (const probe of probes)
    expect(await fetch(gateway.url + probe.httpGet!.path)).toMatchObject({ status: 200 });
  expect(container.ports).toEqual([{ name: 'http', containerPort: config.gateway.port }]);
  const service = read('service.yaml') as Data<typeof Service>;
  expect(service.spec!.ports![0]).toMatchObject({ port: config.gateway.port, targetPort: 'http' });
  // The startup probe waits for as long as the models may take.
  const { periodSeconds, failureThreshold } = container.startupProbe!;
  expect(periodSeconds! * failureThreshold! * 1000).toBeGreaterThan(config.limits.modelLoadMsMax * 2);
  const file = container.args!.at(-1)!;
  const mount = container.volumeMounts!.find(({ mountPath }) => file.startsWith(`${mountPath}/`))!;
  expect(mount).toMatchObject({ name: 'config', readOnly: true });
  expect(config.gateway).toMatchObject({ host: '0.0.0.0', insecure: true });
});

test('all of them mean the same pods', () => {
  const labels = { 'app.kubernetes.io/name': 'subito' };
  expect(deployment.spec!.template.metadata!.labels).toEqual(labels);
  expect(deployment.spec!.selector).toEqual({ matchLabels: labels });
  expect((read('service.yaml') as Data<typeof Service>).spec!.selector).toEqual(labels);
  const budget = read('poddisruptionbudget.yaml') as Data<typeof PodDisruptionBudget>;
  expect(budget.spec!.selector).toEqual({ matchLabels: labels });
  const policy = read('networkpolicy.yaml') as Data<typeof NetworkPolicy>;
  expect(policy.spec!.podSelector).toEqual({ matchLabels: labels });
  // KEDA's autoscaler sets the replicas.
  expect(deployment.spec).not.toHaveProperty('replicas');
});

test('KEDA scales within the limits of the configuration, by what the engine answers', () => {
  expect(scaledObjects).toHaveLength(2);
  for (const { spec } of scaledObjects) {
    expect(spec!.scaleTargetRef).toEqual({ name: deployment.metadata!.name });
    expect(spec!.minReplicaCount).toBe(config.autoscale.replicasMin);
    expect(spec!.maxReplicaCount).toBe(config.autoscale.replicasMax);
    expect(spec!.fallback!.behavior).toBe('currentReplicasIfHigher');
  }
  const triggers = scaledObjects.flatMap(({ spec }) => spec!.triggers);
  const metadata = (type: string) => triggers.find((trigger) => trigger.type === type)!.metadata;
  const { namespace } = kustomization;
  expect(metadata('metrics-api')).toEqual({
    url: `http://subito.${namespace}.svc.cluster.local:${config.gateway.port}/autoscale`,
    valueLocation: 'desired_replicas',
    targetValue: '1',
  });
  const prometheus = metadata('prometheus');
  expect(prometheus).toMatchObject({ threshold: '1', ignoreNullValues: 'false' });
  const [, metric = ''] = /max\((\w+)\{/.exec(prometheus['query']!) ?? [];
  expect(readFileSync('src/observe/metrics.ts', 'utf8')).toContain(`'${metric}'`);
  const [{ name, group } = { name: '', group: '' }] = config.streams;
  expect(metadata('redis-streams')).toMatchObject({ stream: name, consumerGroup: group });
});
