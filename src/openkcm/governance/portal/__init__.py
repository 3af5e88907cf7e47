"""The portal: API and pages over HTTP. The only room with litestar; it decides who asks, never what is legal."""
