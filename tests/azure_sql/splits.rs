//! A whole session through a network that splits it into pieces of any length.

use entra_pool_emulator::network::Network;

use crate::{Shop, number, pool, retired};

#[tokio::test]
async fn a_session_works_in_pieces_of_any_length() {
    let shop = Shop::open().await;
    let network = Network::to(shop.server().addr()).unwrap();
    let connector = shop.connector_to("localhost", network.addr().port(), "");
    let long: &str = &"x".repeat(3000);
    for length in (1..=10).chain([29, 64, 511, 1460, 4095, 4096, 4097]) {
        network.split(length);
        // A new pool, so that there is another login, from PRELOGIN on.
        let pool = pool(&connector, 1);
        for _ in 0..2 {
            let mut connection = pool.get().await.unwrap();
            assert_eq!(number(&mut connection, "SELECT 1").await, 1, "pieces of {length}");
            let twice = "SELECT @P1 UNION ALL SELECT @P1";
            let rows = connection.query(twice, &[&long]).await.unwrap();
            let rows = rows.into_first_result().await.unwrap();
            assert!(rows.iter().all(|row| row.get::<&str, _>(0) == Some(long)));
        }
    }
    assert_eq!(retired(&connector), []);
}
