use axum::{
    Form, Json, Router,
    extract::{
        DefaultBodyLimit, Multipart, Path, State,
        multipart::MultipartRejection,
        rejection::{FormRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::{get, post},
};
use entra_pool::postgres::{Connector, Pool};
use examples_common::{
    Problem,
    health::{self, Health},
    html::Page,
};

use crate::{
    database,
    entry::{RestaurantEntry, ReviewEntry},
    image::PhotoName,
    pages,
    photos::Photos,
    upload::{UPLOAD_LIMIT, Upload},
};

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) pool: Pool,
    pub(crate) connector: Connector,
    pub(crate) photos: Photos,
}

pub(crate) fn router(app: App) -> Router {
    let add_review = post(add_review).layer(DefaultBodyLimit::max(UPLOAD_LIMIT));
    Router::new()
        .route("/", get(restaurants))
        .route("/restaurants", post(add_restaurant))
        .route("/restaurants/new", get(restaurant_form))
        .route("/restaurants/{id}", get(restaurant))
        .route("/restaurants/{id}/reviews", add_review)
        .route("/restaurants/{id}/reviews/new", get(review_form))
        .route("/photos/{name}", get(photo))
        .route("/health", get(health))
        .with_state(app)
}

async fn restaurants(State(app): State<App>) -> Result<Page, Problem> {
    Ok(pages::restaurants(&database::restaurants(&app.pool).await?))
}

async fn restaurant_form() -> Page {
    pages::restaurant_form(&RestaurantEntry::default(), &[])
}

async fn add_restaurant(
    State(app): State<App>,
    form: Result<Form<RestaurantEntry>, FormRejection>,
) -> Result<Redirect, Problem> {
    let Form(entry) =
        form.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let new = entry.check().map_err(|errors| {
        let form = pages::restaurant_form(&entry, &errors);
        Problem::invalid(errors).on(form)
    })?;
    let id = database::add_restaurant(&app.pool, &new).await?;
    Ok(Redirect::to(&format!("/restaurants/{id}")))
}

async fn restaurant(
    State(app): State<App>,
    path: Result<Path<i64>, PathRejection>,
) -> Result<Page, Problem> {
    let restaurant = database::restaurant(&app.pool, id(path)?).await?;
    let reviews = database::reviews(&app.pool, restaurant.id).await?;
    Ok(pages::restaurant(&restaurant, &reviews))
}

async fn review_form(
    State(app): State<App>,
    path: Result<Path<i64>, PathRejection>,
) -> Result<Page, Problem> {
    let restaurant = database::restaurant(&app.pool, id(path)?).await?;
    Ok(pages::review_form(&restaurant, &ReviewEntry::default(), &[]))
}

async fn add_review(
    State(app): State<App>,
    path: Result<Path<i64>, PathRejection>,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Redirect, Problem> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    // Told before it is sent, where that is known.
    if length
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: usize| length > UPLOAD_LIMIT)
    {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "this is too large"));
    }
    let form = form.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let restaurant = database::restaurant(&app.pool, id(path)?).await?;
    let upload = Upload::read(form)
        .await
        .map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let (new, photo) = match (upload.entry.check(), upload.photo()) {
        (Ok(new), Ok(photo)) => (new, photo),
        (checked, photo) => {
            let mut errors = checked.err().unwrap_or_default();
            errors.extend(photo.err());
            let form = pages::review_form(&restaurant, &upload.entry, &errors);
            return Err(Problem::invalid(errors).on(form));
        }
    };
    // The photo first: a review never shows one that is not there.
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
    // Whoever may have sent it: it is shown as an image or not at all.
    let headers = [
        (header::CONTENT_TYPE, name.content_type()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, photo))
}

async fn health(State(app): State<App>) -> Json<Health> {
    health::postgres(&app.pool, &app.connector)
}

fn id(path: Result<Path<i64>, PathRejection>) -> Result<i64, Problem> {
    path.map(|Path(id)| id).map_err(|_| database::no_such_restaurant())
}
