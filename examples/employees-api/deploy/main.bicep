// The application: SQL server with Entra logins only, database, App Service plan, web
// app. It runs as the identity of registry.bicep.

@description('Where everything is.')
param location string = resourceGroup().location

@description('SQL server and web app: a name that nobody else has, of lower-case letters, digits and hyphens.')
@minLength(3)
@maxLength(60)
param name string

@description('The image, as REGISTRY.azurecr.io/employees-api:TAG.')
param image string

@description('The Entra administrator of the SQL server: the name of a group, user or application.')
param administratorName string

@description('Its object ID (of an application: its client ID).')
param administratorId string

@description('What it is.')
@allowed([
  'Application'
  'Group'
  'User'
])
param administratorType string = 'Group'

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

// From within Azure; where that is too wide, a private endpoint takes its place.
resource fromAzure 'Microsoft.Sql/servers/firewallRules@2021-11-01' = {
  parent: server
  name: 'azure'
  properties: {
    startIpAddress: '0.0.0.0'
    endIpAddress: '0.0.0.0'
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

output address string = 'https://${app.properties.defaultHostName}'
output server string = server.properties.fullyQualifiedDomainName
