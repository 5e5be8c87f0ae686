// Resources of the live suite: an Azure SQL server and a PostgreSQL flexible server with Entra
// logins only, a user-assigned identity, and optionally a Synapse workspace with a dedicated
// pool. `run` deploys them into a separate resource group, which it deletes afterwards.

@description('The location of all resources.')
param location string = resourceGroup().location

@description('The name of both servers: globally unique, of lower-case letters and digits.')
@minLength(3)
@maxLength(20)
param name string

@description('The Entra administrator of the servers, whose account the suite uses: display name or user principal name.')
param administratorName string

@description('The object ID of the administrator.')
param administratorId string

@description('The type of the administrator.')
@allowed([
  'Group'
  'ServicePrincipal'
  'User'
])
param administratorType string = 'User'

@description('The public IPv4 address that the suite connects from.')
param clientAddress string

@description('Whether to create a Synapse workspace with a dedicated pool, which is billed by the hour.')
param withSynapse bool = false

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-identity'
  location: location
}

resource sql 'Microsoft.Sql/servers@2021-11-01' = {
  name: name
  location: location
  properties: {
    minimalTlsVersion: '1.2'
    publicNetworkAccess: 'Enabled'
    administrators: {
      administratorType: 'ActiveDirectory'
      azureADOnlyAuthentication: true
      principalType: administratorType == 'ServicePrincipal' ? 'Application' : administratorType
      login: administratorName
      sid: administratorId
      tenantId: tenant().tenantId
    }
  }
}

resource sqlClient 'Microsoft.Sql/servers/firewallRules@2021-11-01' = {
  parent: sql
  name: 'client'
  properties: {
    startIpAddress: clientAddress
    endIpAddress: clientAddress
  }
}

// Serverless, with the shortest delay before it pauses: the first login may have to resume it.
resource sqlDatabase 'Microsoft.Sql/servers/databases@2021-11-01' = {
  parent: sql
  name: 'live'
  location: location
  sku: {
    name: 'GP_S_Gen5'
    tier: 'GeneralPurpose'
    family: 'Gen5'
    capacity: 1
  }
  properties: {
    autoPauseDelay: 60
    minCapacity: json('0.5')
  }
}

resource postgres 'Microsoft.DBforPostgreSQL/flexibleServers@2024-08-01' = {
  name: name
  location: location
  sku: {
    name: 'Standard_B1ms'
    tier: 'Burstable'
  }
  properties: {
    version: '16'
    storage: {
      storageSizeGB: 32
    }
    authConfig: {
      activeDirectoryAuth: 'Enabled'
      passwordAuth: 'Disabled'
      tenantId: tenant().tenantId
    }
  }
}

resource postgresDatabase 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2024-08-01' = {
  parent: postgres
  name: 'live'
}

resource postgresAdministrator 'Microsoft.DBforPostgreSQL/flexibleServers/administrators@2024-08-01' = {
  parent: postgres
  name: administratorId
  properties: {
    principalName: administratorName
    principalType: administratorType
    tenantId: tenant().tenantId
  }
  // The server accepts one change at a time.
  dependsOn: [
    postgresDatabase
  ]
}

resource postgresClient 'Microsoft.DBforPostgreSQL/flexibleServers/firewallRules@2024-08-01' = {
  parent: postgres
  name: 'client'
  properties: {
    startIpAddress: clientAddress
    endIpAddress: clientAddress
  }
  dependsOn: [
    postgresAdministrator
  ]
}

// A workspace needs a storage account with a hierarchical namespace.
resource storage 'Microsoft.Storage/storageAccounts@2023-01-01' = if (withSynapse) {
  name: '${name}lake'
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    isHnsEnabled: true
    allowSharedKeyAccess: false
    allowBlobPublicAccess: false
    minimumTlsVersion: 'TLS1_2'
  }
}

resource synapse 'Microsoft.Synapse/workspaces@2021-06-01' = if (withSynapse) {
  name: '${name}synapse'
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    azureADOnlyAuthentication: true
    defaultDataLakeStorage: {
      accountUrl: 'https://${name}lake.dfs.${environment().suffixes.storage}'
      filesystem: 'live'
    }
  }
  dependsOn: [
    storage
  ]
}

resource synapseAdministrator 'Microsoft.Synapse/workspaces/administrators@2021-06-01' = if (withSynapse) {
  parent: synapse
  name: 'activeDirectory'
  properties: {
    administratorType: 'ActiveDirectory'
    login: administratorName
    sid: administratorId
    tenantId: tenant().tenantId
  }
}

resource synapseClient 'Microsoft.Synapse/workspaces/firewallRules@2021-06-01' = if (withSynapse) {
  parent: synapse
  name: 'client'
  properties: {
    startIpAddress: clientAddress
    endIpAddress: clientAddress
  }
}

resource synapsePool 'Microsoft.Synapse/workspaces/sqlPools@2021-06-01' = if (withSynapse) {
  parent: synapse
  name: 'live'
  location: location
  sku: {
    name: 'DW100c'
  }
  properties: {
    createMode: 'Default'
  }
}

output azureSqlHost string = sql.properties.fullyQualifiedDomainName
output postgresHost string = postgres.properties.fullyQualifiedDomainName
output synapseHost string = withSynapse ? '${name}synapse.sql.azuresynapse.net' : ''
output identityName string = identity.name
output identityClientId string = identity.properties.clientId
