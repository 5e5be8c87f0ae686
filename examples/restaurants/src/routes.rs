use axum::{
    Form, Router,
    extract::{
        DefaultBodyLimit, Multipart, Path, Query, State,
        multipart::MultipartRejection,
        rejection::{FormRejection, PathRejection},
    },
    http::{StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Redirect},
    routing::{get, post},
};
use entra_pool::postgres::{self, Pool};
use examples_common::{Problem, entry::Check, health, html::Page};

use crate::{
    cross_origin, database,
    entry::{RestaurantEntry, ReviewEntry},
    forms,
    image::PhotoName,
    pages,
    photos::Photos,
    upload::{PHOTO_MB, UPLOAD_LIMIT, Upload},
};

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) pool: Pool,
    pub(crate) photos: Photos,
}

pub(crate) fn router(app: App) -> Router {
    let add_review = post(add_review).layer(DefaultBodyLimit::max(UPLOAD_LIMIT));
    Router::new()
        .route("/", get(restaurants))
        .route("/restaurants", post(add_restaurant))
        .route(
            "/restaurants/new",
            get(async || forms::restaurant(&RestaurantEntry::default(), &[])),
        )
        .route("/restaurants/{id}", get(restaurant))
        .route("/restaurants/{id}/reviews", add_review)
        .route("/restaurants/{id}/reviews/new", get(review_form))
        .route("/photos/{name}", get(photo))
        .route("/form.js", get(script))
        .route("/health", get(health::alive))
        .route("/ready", get(ready))
        .layer(from_fn(cross_origin::refused))
        .with_state(app)
}

type Parameters = Query<Vec<(String, String)>>;

async fn restaurants(
    State(app): State<App>,
    Query(parameters): Parameters,
) -> Result<Page, Problem> {
    let after = position("after", &parameters)?;
    let restaurants = database::restaurants(&app.pool, after.map(i64::from)).await?;
    Ok(pages::restaurants(&restaurants, after.is_none()))
}

async fn add_restaurant(
    State(app): State<App>,
    form: Result<Form<RestaurantEntry>, FormRejection>,
) -> Result<Redirect, Problem> {
    let Form(entry) = form.map_err(|rejection| not_a_form(rejection.status()))?;
    let new = entry.check().map_err(|errors| {
        let form = forms::restaurant(&entry, &errors);
        Problem::invalid(errors).on(form)
    })?;
    let id = database::add_restaurant(&app.pool, &new).await?;
    Ok(Redirect::to(&format!("/restaurants/{id}")))
}

async fn restaurant(
    State(app): State<App>,
    path: Result<Path<i64>, PathRejection>,
    Query(parameters): Parameters,
) -> Result<Page, Problem> {
    let before = position("before", &parameters)?;
    let restaurant = database::restaurant(&app.pool, id(path)?).await?;
    let first = before.map_or(i64::MAX, i64::from);
    let reviews = database::reviews(&app.pool, restaurant.id, first).await?;
    Ok(pages::restaurant(&restaurant, &reviews, before.is_none()))
}

async fn review_form(
    State(app): State<App>,
    path: Result<Path<i64>, PathRejection>,
) -> Result<Page, Problem> {
    let restaurant = database::restaurant(&app.pool, id(path)?).await?;
    Ok(forms::review(&restaurant, &ReviewEntry::default(), &[]))
}

async fn add_review(
    State(app): State<App>,
    path: Result<Path<i64>, PathRejection>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Redirect, Problem> {
    let form = form.map_err(|rejection| not_a_form(rejection.status()))?;
    let restaurant = database::restaurant(&app.pool, id(path)?).await?;
    let upload = Upload::read(form).await.map_err(|error| not_a_form(error.status()))?;
    let (new, photo) = match (upload.entry.check(), upload.photo()) {
        (Ok(new), Ok(photo)) => (new, photo),
        (checked, photo) => {
            let mut errors = checked.err().unwrap_or_default();
            errors.extend(photo.err());
            let form = forms::review(&restaurant, &upload.entry, &errors);
            return Err(if upload.is_cut {
                let detail = format!("the photo must have at most {PHOTO_MB} MB");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).on(form)
            } else {
                Problem::invalid(errors).on(form)
            });
        }
    };
    // The photo first, so that every photo of a review exists.
    let photo = match photo {
        Some((bytes, image_type)) => {
            let name = PhotoName::random(image_type);
            app.photos.put(name, bytes.to_vec()).await?;
            Some(name)
        }
        None => None,
    };
    database::add_review(&app.pool, restaurant.id, &new, photo).await?;
    Ok(Redirect::to(&format!("/restaurants/{}", restaurant.id)))
}

async fn photo(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let none = || Problem::not_found("there is no such photo");
    let name: PhotoName = name.parse().map_err(|_| none())?;
    let photo = app.photos.get(name).await?.ok_or_else(none)?;
    // The photo may come from anyone, so browsers may show it only as an image.
    let headers = [
        (header::CONTENT_TYPE, name.content_type()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, photo))
}

async fn script() -> impl IntoResponse {
    let headers =
        [(header::CONTENT_TYPE, "text/javascript"), (header::CACHE_CONTROL, "public, max-age=600")];
    (headers, include_str!("form.js"))
}

async fn ready(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    health::ready(async { app.pool.get().await.map_err(postgres::Error::from) }).await
}

/// The ID after or before which a page begins: the value of the page's only parameter.
fn position(name: &str, parameters: &[(String, String)]) -> Result<Option<i32>, Problem> {
    let (mut check, mut position) = (Check::default(), None);
    for (given, value) in parameters {
        if given == name {
            position = Some(check.number(name, value, 1..=i32::MAX));
        } else {
            check.unknown(given);
        }
    }
    check.passed(position).map_err(Problem::invalid)
}

fn id(path: Result<Path<i64>, PathRejection>) -> Result<i64, Problem> {
    path.map(|Path(id)| id).map_err(|_| database::no_such_restaurant())
}

fn not_a_form(status: StatusCode) -> Problem {
    let detail = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "the form is too large",
        _ => "the request is not the form of this page",
    };
    Problem::new(status, detail)
}
