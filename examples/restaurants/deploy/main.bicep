// The application's resources: its identity, a PostgreSQL flexible server with Entra
// logins only and a private endpoint, a storage account without keys, and the identity's
// role there. grant.sql grants its rights in the database.

@description('The location of all resources.')
param location string = resourceGroup().location

@description('The PostgreSQL server: a globally unique name of lower-case letters, digits and hyphens.')
@minLength(3)
@maxLength(63)
param serverName string

@description('The storage account: a globally unique name of lower-case letters and digits.')
@minLength(3)
@maxLength(24)
param storageName string

@description('The Entra administrator of the PostgreSQL server: the name of a group, user or application.')
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

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'restaurants-identity'
  location: location
}

resource server 'Microsoft.DBforPostgreSQL/flexibleServers@2024-08-01' = {
  name: serverName
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

resource database 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2024-08-01' = {
  parent: server
  name: 'restaurants'
}

resource administrator 'Microsoft.DBforPostgreSQL/flexibleServers/administrators@2024-08-01' = {
  parent: server
  name: administratorId
  properties: {
    principalName: administratorName
    principalType: administratorType
    tenantId: tenant().tenantId
  }
  // The server accepts one change at a time.
  dependsOn: [
    database
  ]
}

// The application's connections come from the subnet `app`, and reach the server at an
// address in the subnet `database`.
resource network 'Microsoft.Network/virtualNetworks@2023-09-01' = {
  name: serverName
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
        }
      }
      {
        name: 'database'
        properties: {
          addressPrefix: '10.0.0.64/28'
        }
      }
    ]
  }
}

// No firewall rule: the server refuses all other addresses.
resource endpoint 'Microsoft.Network/privateEndpoints@2023-09-01' = {
  name: serverName
  location: location
  properties: {
    subnet: {
      id: network.properties.subnets[1].id
    }
    privateLinkServiceConnections: [
      {
        name: serverName
        properties: {
          privateLinkServiceId: server.id
          groupIds: [
            'postgresqlServer'
          ]
        }
      }
    ]
  }
  dependsOn: [
    administrator
  ]
}

// In the network, the server's public name resolves to that address.
resource zone 'Microsoft.Network/privateDnsZones@2020-06-01' = {
  name: 'privatelink.postgres.database.azure.com'
  location: 'global'
}

resource zoneLink 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = {
  parent: zone
  name: serverName
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}

resource zoneGroup 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2023-09-01' = {
  parent: endpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: 'postgres'
        properties: {
          privateDnsZoneId: zone.id
        }
      }
    ]
  }
}

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: storageName
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: storage
  name: 'default'
}

resource photos 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'photos'
}

@description('The built-in role that reads, writes and deletes blobs.')
var storageBlobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'

// Only for this container, not for the account.
resource writesPhotos 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(photos.id, identity.id, storageBlobDataContributor)
  scope: photos
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', storageBlobDataContributor)
  }
}

output identity string = identity.id
output clientId string = identity.properties.clientId
output connectionString string = 'postgres://${identity.name}@${server.properties.fullyQualifiedDomainName}/${database.name}'
output subnet string = network.properties.subnets[0].id
output photosEndpoint string = storage.properties.primaryEndpoints.blob
