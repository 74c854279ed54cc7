// Before the first paint, so that a page that was set to dark does not flash light.
const theme = localStorage.getItem("viewfold-theme");
if (theme) document.documentElement.dataset.theme = theme;
