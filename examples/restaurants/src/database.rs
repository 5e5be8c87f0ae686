use entra_pool::postgres::{
    Pool, PooledConnection,
    tokio_postgres::{Error, Row, types::ToSql},
};
use examples_common::Problem;
use time::Date;

use crate::{
    entry::{NewRestaurant, NewReview},
    image::PhotoName,
};

const RESTAURANT: &str = "SELECT restaurant.id, name, description, count(review.id), \
                                 CAST(avg(rating) AS double precision) \
                          FROM restaurant LEFT JOIN review ON restaurant_id = restaurant.id";

/// The number of rows on a page.
const PAGE: usize = 12;

/// The rows of a page, and whether there are more after them.
pub(crate) struct Paged<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) has_more: bool,
}

pub(crate) struct Restaurant {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) reviews: i64,
    /// `None` if there are no reviews.
    pub(crate) average_rating: Option<f64>,
}

pub(crate) struct Review {
    pub(crate) id: i64,
    pub(crate) reviewer: String,
    pub(crate) rating: i16,
    pub(crate) content: String,
    pub(crate) photo: Option<PhotoName>,
    pub(crate) written_on: Date,
}

/// A page of restaurants by name: from the beginning, or after the restaurant with the ID
/// `after`.
pub(crate) async fn restaurants(
    pool: &Pool,
    after: Option<i64>,
) -> Result<Paged<Restaurant>, Problem> {
    let mut client = pool.get().await?;
    let (name, id) = match after {
        Some(id) => {
            let name =
                client.query_opt("SELECT name FROM restaurant WHERE id = $1", &[&id]).await?;
            (name.ok_or_else(no_such_restaurant)?.try_get(0)?, id)
        }
        None => (String::new(), 0),
    };
    let statement = format!(
        "{RESTAURANT} WHERE name > $1 OR (name = $1 AND restaurant.id > $2) \
         GROUP BY restaurant.id ORDER BY name, restaurant.id"
    );
    page(&mut client, &statement, &[&name, &id], restaurant_of).await
}

/// 404 if there is no restaurant with this ID.
pub(crate) async fn restaurant(pool: &Pool, id: i64) -> Result<Restaurant, Problem> {
    let client = pool.get().await?;
    let statement = format!("{RESTAURANT} WHERE restaurant.id = $1 GROUP BY restaurant.id");
    let row = client.query_opt(&client.prepare_cached(&statement).await?, &[&id]).await?;
    let row = row.ok_or_else(no_such_restaurant)?;
    Ok(restaurant_of(&row)?)
}

pub(crate) fn no_such_restaurant() -> Problem {
    Problem::not_found("there is no such restaurant")
}

fn restaurant_of(row: &Row) -> Result<Restaurant, Error> {
    Ok(Restaurant {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        description: row.try_get(2)?,
        reviews: row.try_get(3)?,
        average_rating: row.try_get(4)?,
    })
}

/// A page of a restaurant's reviews with an ID below `before`, the newest first.
pub(crate) async fn reviews(
    pool: &Pool,
    restaurant: i64,
    before: i64,
) -> Result<Paged<Review>, Problem> {
    let mut client = pool.get().await?;
    let statement = "SELECT id, reviewer, rating, content, photo, written_on FROM review \
                     WHERE restaurant_id = $1 AND id < $2 ORDER BY id DESC";
    page(&mut client, statement, &[&restaurant, &before], |row| {
        Ok(Review {
            id: row.try_get(0)?,
            reviewer: row.try_get(1)?,
            rating: row.try_get(2)?,
            content: row.try_get(3)?,
            // A value that is not the name of a photo is not shown.
            photo: row.try_get::<_, Option<&str>>(4)?.and_then(|name| name.parse().ok()),
            written_on: row.try_get(5)?,
        })
    })
    .await
}

/// The first page of a query's rows. The query requests one more row, which shows whether
/// there is another page.
async fn page<T>(
    client: &mut PooledConnection,
    statement: &str,
    parameters: &[&(dyn ToSql + Sync)],
    read: impl FnMut(&Row) -> Result<T, Error>,
) -> Result<Paged<T>, Problem> {
    let statement = client.prepare_cached(statement).await?;
    let transaction = client.transaction().await?;
    let portal = transaction.bind(&statement, parameters).await?;
    let rows = transaction.query_portal(&portal, PAGE as i32 + 1).await?;
    transaction.commit().await?;
    let has_more = rows.len() > PAGE;
    Ok(Paged { rows: rows.iter().take(PAGE).map(read).collect::<Result<_, _>>()?, has_more })
}

/// Adds a restaurant. Returns its ID.
pub(crate) async fn add_restaurant(pool: &Pool, new: &NewRestaurant) -> Result<i64, Problem> {
    let client = pool.get().await?;
    let row = client
        .query_one(
            "INSERT INTO restaurant (name, description) VALUES ($1, $2) RETURNING id",
            &[&new.name, &new.description],
        )
        .await?;
    Ok(row.try_get(0)?)
}

pub(crate) async fn add_review(
    pool: &Pool,
    restaurant: i64,
    new: &NewReview,
    photo: Option<PhotoName>,
) -> Result<(), Problem> {
    let client = pool.get().await?;
    let photo = photo.map(|name| name.to_string());
    client
        .execute(
            "INSERT INTO review (restaurant_id, reviewer, rating, content, photo) \
             VALUES ($1, $2, $3, $4, $5)",
            &[&restaurant, &new.reviewer, &new.rating, &new.content, &photo],
        )
        .await?;
    Ok(())
}
