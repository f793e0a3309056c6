# Astro Runtime 3.3, which brings Airflow 3.3. Its ONBUILD steps copy the project into the image and install
# packages.txt and requirements.txt. For the community image, use: docker build --file Dockerfile.apache .
FROM astrocrpublic.azurecr.io/runtime:3.3-2
