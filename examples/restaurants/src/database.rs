use entra_pool::postgres::{Pool, tokio_postgres::Row};
use examples_common::Problem;
use time::Date;

use crate::{
    entry::{NewRestaurant, NewReview},
    image::PhotoName,
};

/// Makes the tables, where they are not there yet.
pub(crate) const SETUP: &str = include_str!("../setup.sql");

const RESTAURANT: &str = "SELECT restaurant.id, name, description, count(review.id), \
                                 CAST(avg(rating) AS double precision) \
                          FROM restaurant LEFT JOIN review ON restaurant_id = restaurant.id";

pub(crate) struct Restaurant {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) reviews: i64,
    /// `None` without reviews.
    pub(crate) average_rating: Option<f64>,
}

pub(crate) struct Review {
    pub(crate) reviewer: String,
    pub(crate) rating: i16,
    pub(crate) content: String,
    pub(crate) photo: Option<PhotoName>,
    pub(crate) written_on: Date,
}

/// All of them, by name.
pub(crate) async fn restaurants(pool: &Pool) -> Result<Vec<Restaurant>, Problem> {
    let client = pool.get().await?;
    let statement = format!("{RESTAURANT} GROUP BY restaurant.id ORDER BY name, restaurant.id");
    let rows = client.query(&client.prepare_cached(&statement).await?, &[]).await?;
    Ok(rows.iter().map(restaurant_of).collect::<Result<_, _>>()?)
}

/// 404 if there is none of this ID.
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

fn restaurant_of(row: &Row) -> Result<Restaurant, entra_pool::postgres::tokio_postgres::Error> {
    Ok(Restaurant {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        description: row.try_get(2)?,
        reviews: row.try_get(3)?,
        average_rating: row.try_get(4)?,
    })
}

/// A restaurant's, the newest first.
pub(crate) async fn reviews(pool: &Pool, restaurant: i64) -> Result<Vec<Review>, Problem> {
    let client = pool.get().await?;
    let statement = client
        .prepare_cached(
            "SELECT reviewer, rating, content, photo, written_on FROM review \
             WHERE restaurant_id = $1 ORDER BY id DESC",
        )
        .await?;
    let rows = client.query(&statement, &[&restaurant]).await?;
    rows.iter()
        .map(|row| {
            Ok(Review {
                reviewer: row.try_get(0)?,
                rating: row.try_get(1)?,
                content: row.try_get(2)?,
                // What is no photo's name cannot be shown.
                photo: row.try_get::<_, Option<&str>>(3)?.and_then(|name| name.parse().ok()),
                written_on: row.try_get(4)?,
            })
        })
        .collect()
}

/// Gives its ID.
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
