"""azure-identity against the emulator, with the variables that it printed."""

import base64
import json
import os

from azure.core.exceptions import ClientAuthenticationError
from azure.identity import (
    CertificateCredential,
    ClientSecretCredential,
    DefaultAzureCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

SCOPE = "https://database.windows.net/.default"
env = os.environ
# The emulator's host is not a known Entra host, so MSAL would query login.microsoftonline.com.
options = {"disable_instance_discovery": True}


def claims(credential):
    payload = credential.get_token(SCOPE).token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def check(what, credential, client_id):
    found = claims(credential)
    assert found["aud"] == "https://database.windows.net", found
    assert client_id is None or found["appid"] == client_id, found
    print(f"python: {what}: {found['appid']}")
    return found


def refused(what, credential, code):
    try:
        credential.get_token(SCOPE)
    except ClientAuthenticationError as error:
        assert code in str(error), error
        print(f"python: {what}: {code}")
    else:
        raise AssertionError(f"{what}: got a token instead of {code}")


client_id = env["AZURE_CLIENT_ID"]
if env["CREDENTIAL"] == "managed-identity":
    check("system-assigned", ManagedIdentityCredential(), None)
    found = check("by client ID", ManagedIdentityCredential(client_id=client_id), client_id)
    by_object = ManagedIdentityCredential(identity_config={"object_id": found["oid"]})
    check("by object ID", by_object, client_id)
    check("DefaultAzureCredential", DefaultAzureCredential(), client_id)
elif env["CREDENTIAL"] == "client-secret":
    tenant, secret = env["AZURE_TENANT_ID"], env["AZURE_CLIENT_SECRET"]
    check("client secret", ClientSecretCredential(tenant, client_id, secret, **options), client_id)
    check("DefaultAzureCredential", DefaultAzureCredential(**options), client_id)
    pem = env["CLIENT_PEM"]
    check("certificate", CertificateCredential(tenant, client_id, pem, **options), client_id)
    wrong = ClientSecretCredential(tenant, client_id, "wrong", **options)
    refused("a wrong secret", wrong, "AADSTS7000215")
    other = ClientSecretCredential(tenant, tenant, secret, **options)
    refused("an unknown application", other, "AADSTS700016")
else:
    check("workload identity", WorkloadIdentityCredential(**options), client_id)
    check("DefaultAzureCredential", DefaultAzureCredential(**options), client_id)
