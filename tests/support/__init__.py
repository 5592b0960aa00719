"""What tests of several folders share: inputs, projects to work in, and services to run them with."""
