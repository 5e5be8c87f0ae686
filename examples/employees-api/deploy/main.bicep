// The application: SQL server with Entra logins only, database, virtual network, App Service
// plan, web app with authentication. It runs as the identity of registry.bicep.

@description('The location of all resources.')
param location string = resourceGroup().location

@description('SQL server and web app: a globally unique name of lower-case letters, digits and hyphens.')
@minLength(3)
@maxLength(60)
param name string

@description('The image, as REGISTRY.azurecr.io/employees-api:TAG.')
param image string

@description('The Entra administrator of the SQL server: the name of a group, user or application.')
param administratorName string

@description('The object ID of the administrator (of an application: its client ID).')
param administratorId string

@description('The type of the administrator.')
@allowed([
  'Application'
  'Group'
  'User'
])
param administratorType string = 'Group'

@description('The client ID of the app registration that represents the API. Callers request tokens for it.')
param clientId string

var databaseName = 'app'

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: 'employees-api-identity'
}

resource server 'Microsoft.Sql/servers@2021-11-01' = {
  name: name
  location: location
  properties: {
    minimalTlsVersion: '1.2'
    publicNetworkAccess: 'Enabled'
    administrators: {
      administratorType: 'ActiveDirectory'
      azureADOnlyAuthentication: true
      principalType: administratorType
      login: administratorName
      sid: administratorId
      tenantId: tenant().tenantId
    }
  }
}

// The subnet that the web app's connections come from. The service endpoint identifies it to
// the SQL server.
resource network 'Microsoft.Network/virtualNetworks@2023-09-01' = {
  name: name
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: [
        '10.0.0.0/24'
      ]
    }
    subnets: [
      {
        name: 'app'
        properties: {
          addressPrefix: '10.0.0.0/26'
          delegations: [
            {
              name: 'app'
              properties: {
                serviceName: 'Microsoft.Web/serverFarms'
              }
            }
          ]
          serviceEndpoints: [
            {
              service: 'Microsoft.Sql'
            }
          ]
        }
      }
    ]
  }
}

// The server accepts connections only from that subnet. publicNetworkAccess must be enabled
// for such a rule; without a rule that matches, the server refuses every address.
resource fromApp 'Microsoft.Sql/servers/virtualNetworkRules@2021-11-01' = {
  parent: server
  name: 'app'
  properties: {
    virtualNetworkSubnetId: network.properties.subnets[0].id
  }
}

resource database 'Microsoft.Sql/servers/databases@2021-11-01' = {
  parent: server
  name: databaseName
  location: location
  sku: {
    name: 'Basic'
    tier: 'Basic'
  }
}

resource plan 'Microsoft.Web/serverfarms@2022-09-01' = {
  name: name
  location: location
  kind: 'linux'
  sku: {
    name: 'B1'
  }
  properties: {
    reserved: true
  }
}

resource app 'Microsoft.Web/sites@2022-09-01' = {
  name: name
  location: location
  kind: 'app,linux,container'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    virtualNetworkSubnetId: network.properties.subnets[0].id
    siteConfig: {
      linuxFxVersion: 'DOCKER|${image}'
      acrUseManagedIdentityCreds: true
      acrUserManagedIdentityID: identity.properties.clientId
      alwaysOn: true
      ftpsState: 'Disabled'
      healthCheckPath: '/health'
      minTlsVersion: '1.2'
      appSettings: [
        {
          name: 'WEBSITES_PORT'
          value: '8080'
        }
        {
          name: 'AZURE_CLIENT_ID'
          value: identity.properties.clientId
        }
        {
          name: 'AZURE_SQL_CONNECTIONSTRING'
          value: 'Server=tcp:${server.properties.fullyQualifiedDomainName};Database=${databaseName};Authentication=Active Directory Default'
        }
      ]
    }
  }
}

// App Service checks the token of every request before the application sees it. Without this
// resource, everyone on the internet can read and add salaries: the application itself does
// not check who is calling.
resource authentication 'Microsoft.Web/sites/config@2022-09-01' = {
  parent: app
  name: 'authsettingsV2'
  properties: {
    platform: {
      enabled: true
    }
    globalValidation: {
      requireAuthentication: true
      unauthenticatedClientAction: 'Return401'
      // Shows only that the process runs.
      excludedPaths: [
        '/health'
      ]
    }
    httpSettings: {
      requireHttps: true
    }
    identityProviders: {
      azureActiveDirectory: {
        enabled: true
        registration: {
          clientId: clientId
          openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
        }
        validation: {
          allowedAudiences: [
            clientId
            'api://${clientId}'
          ]
        }
      }
    }
    login: {
      tokenStore: {
        enabled: false
      }
    }
  }
}

output address string = 'https://${app.properties.defaultHostName}'
output server string = server.properties.fullyQualifiedDomainName
