// @azure/identity against the emulator, with the variables that it printed.

import assert from "node:assert/strict";
import {
  ClientCertificateCredential,
  ClientSecretCredential,
  DefaultAzureCredential,
  ManagedIdentityCredential,
  WorkloadIdentityCredential,
} from "@azure/identity";

const scope = "https://database.windows.net/.default";
const env = process.env;
// The emulator's host is not a known Entra host, so MSAL would query login.microsoftonline.com.
const options = { disableInstanceDiscovery: true, authorityHost: env.AZURE_AUTHORITY_HOST };

async function check(what, credential, clientId) {
  const { token } = await credential.getToken(scope);
  const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString());
  assert.equal(claims.aud, "https://database.windows.net");
  if (clientId) assert.equal(claims.appid, clientId);
  console.log(`node: ${what}: ${claims.appid}`);
  return claims;
}

async function refused(what, credential, code) {
  await assert.rejects(credential.getToken(scope), (error) => error.message.includes(code));
  console.log(`node: ${what}: ${code}`);
}

const clientId = env.AZURE_CLIENT_ID;
if (env.CREDENTIAL === "managed-identity") {
  await check("system-assigned", new ManagedIdentityCredential());
  const claims = await check("by client ID", new ManagedIdentityCredential({ clientId }), clientId);
  const byObject = new ManagedIdentityCredential({ objectId: claims.oid });
  await check("by object ID", byObject, clientId);
} else if (env.CREDENTIAL === "client-secret") {
  const [tenant, secret] = [env.AZURE_TENANT_ID, env.AZURE_CLIENT_SECRET];
  await check("client secret", new ClientSecretCredential(tenant, clientId, secret, options), clientId);
  await check("DefaultAzureCredential", new DefaultAzureCredential(options), clientId);
  const certificate = new ClientCertificateCredential(tenant, clientId, env.CLIENT_PEM, options);
  await check("certificate", certificate, clientId);
  const wrong = new ClientSecretCredential(tenant, clientId, "wrong", options);
  await refused("a wrong secret", wrong, "AADSTS7000215");
  const other = new ClientSecretCredential(tenant, tenant, secret, options);
  await refused("an unknown application", other, "AADSTS700016");
} else {
  await check("workload identity", new WorkloadIdentityCredential(options), clientId);
}
